"""Operations of drawing: counted while the model runs, and the least that the exact method needs.

A multiply-add is two operations. Only matrix products, attention and convolutions count; the rest is bound by
memory. The least includes every exact identity, and no padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from service.model import shared_attention  # noqa: F401  registers the operation
from service.model.engine.generator import Cancelled, Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.config import InfinityConfig, TokenizerConfig, TransformerConfig
from service.model.schedule import Scale, Schedule


@dataclass(frozen=True, slots=True)
class Count:
    """Operations (a multiplication and an addition are two), and bytes as if no cache kept any."""

    flops: int
    bytes: int

    def plus(self, other: Count, times: int = 1) -> Count:
        return Count(self.flops + times * other.flops, self.bytes + times * other.bytes)


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one batch. The first step has with it what is computed once a job; `decode` is the rest."""

    steps: tuple[Count, ...]
    decode: Count

    @property
    def flops(self) -> int:
        return sum(step.flops for step in self.steps) + self.decode.flops

    def extended(self, second: Counts, num_more: int) -> Counts:
        """Of `num_more` jobs on top of these, each adding what `second` has on top of these.

        Within a percent: work grows linearly with jobs of one kind, but for rows padded to whole tiles.
        """
        pairs = zip((*self.steps, self.decode), (*second.steps, second.decode), strict=True)
        extended = [one.plus(two.plus(one, -1), num_more) for one, two in pairs]
        return Counts(tuple(extended[:-1]), extended[-1])


class Traffic(TorchDispatchMode):
    """Adds up the bytes of what each operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.num_bytes += traffic_of(func, args, kwargs or {}, out)
        return out


def traffic_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """The bytes that an operation reads and writes: none where it makes a view, or only allocates."""
    read = _tensors((args, kwargs))
    owned = {tensor.untyped_storage()._cdata for tensor in read}
    if func._schema.is_mutable:
        written = []  # what it writes is among its arguments
    else:
        written = [tensor for tensor in _tensors(out) if tensor.untyped_storage()._cdata not in owned]
        if not written or "empty" in func._schema.name:
            return 0
    return sum(_num_bytes(tensor) for tensor in (*read, *written))


def operations() -> FlopCounterMode:
    """A context that counts multiplications and additions, attention on the CPU included."""
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)


def count(generator: Generator, specs: Sequence[ImageSpec]) -> Counts:
    """Count while a batch is drawn. Texts are encoded beforehand and do not count."""
    with suppress(Cancelled):
        generator.generate(specs, lambda: True)
    seen: list[Count] = []
    with operations() as flops, Traffic() as traffic:

        def snapshot() -> bool:
            seen.append(Count(flops.get_total_flops(), traffic.num_bytes))
            return False

        generator.generate(specs, snapshot)
        snapshot()
    parts = [seen[0], *(later.plus(earlier, -1) for earlier, later in pairwise(seen))]
    return Counts(tuple(parts[:-1]), parts[-1])


def _attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)
    return flops


def _shared_attention(
    query: torch.Size, key: Any, value: Any, groups: Any, rows: torch.Size, known: int, **more: Any
) -> int:
    own_rows, num_tokens, num_heads, head_width = query
    return 2 * num_tokens * known * num_heads * head_width * (own_rows + rows[0])


def _linear(x: torch.Size, weight: torch.Size, *rest: Any, **more: Any) -> int:
    return 2 * prod(x) * weight[0]


# Kernels that torch's counter does not know.
_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.mkldnn._linear_pointwise: _linear,
    torch.ops.atelier.shared_attention: _shared_attention,
    torch.ops.atelier.linear_gelu: _linear,
}


def _tensors(tree: Any) -> list[torch.Tensor]:
    found = {
        id(tree_leave): tree_leave for tree_leave in tree_leaves(tree) if isinstance(tree_leave, torch.Tensor)
    }
    return list(found.values())


def _num_bytes(tensor: torch.Tensor) -> int:
    # A tensor that was expanded is read once.
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


@dataclass(frozen=True, slots=True)
class Batch:
    """How many of what a batch draws; by default one stylised image of a prompt of nine tokens."""

    num_content: int = 1  # content paths
    num_corrected: int = 1  # generation paths that follow them
    num_uncorrected: int = 0  # generation paths with attention of their own
    num_content_drawn: int = 0  # content paths whose own image is requested
    num_halves: int = 2  # guidance halves of each path; 1 without guidance
    num_text_tokens: int = 9  # of each prompt
    num_texts: int = 2  # different ones, the empty prompt of the unconditional half among them


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations of one step, or of what comes before the first or after the last."""

    projections: int = 0  # of self-attention
    attention: int = 0
    text_attention: int = 0  # the text, by every token
    feedforward: int = 0
    head: int = 0
    texts: int = 0  # everything that depends on the texts alone
    convolutions: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class Floor:
    texts: Operations
    steps: tuple[Operations, ...]
    decode: Operations

    @property
    def total(self) -> int:
        return self.texts.total + sum(step.total for step in self.steps) + self.decode.total


def floor(config: InfinityConfig, schedule: Schedule, batch: Batch, *, key_step: int | None = None) -> Floor:
    """The fewest operations of the exact method. `key_step` is the model's own when left out."""
    steps, done = [], 0
    for step, scale in enumerate(schedule.scales, start=1):
        forked = step > (key_step or config.style.key_step)
        is_last = step == len(schedule.scales)
        done += scale.num_tokens
        steps.append(_step(config, batch, scale.num_tokens, done, step == 1, forked, is_last))
    drawn = batch.num_corrected + batch.num_uncorrected + batch.num_content_drawn
    grid = schedule.scales[-1].times(config.patch)
    decode = Operations(convolutions=drawn * decoder_operations(config.tokenizer, grid))
    return Floor(_texts(config.transformer, batch), tuple(steps), decode)


def decoder_operations(config: TokenizerConfig, grid: Scale) -> int:
    """Convolutions of one image's decoding from a feature on `grid`."""
    widths = [config.channels * multiplier for multiplier in config.multipliers]
    num_upsamples = config.stride.bit_length() - 1

    def convolution(before: int, after: int, cells: int, kernel: int = 9) -> int:
        return 2 * kernel * before * after * cells

    def block(before: int, after: int, cells: int) -> int:
        shortcut = convolution(before, after, cells, 1) if before != after else 0
        return convolution(before, after, cells) + convolution(after, after, cells) + shortcut

    cells, width = grid.num_tokens, widths[-1]
    total = convolution(config.num_bits, width, cells) + 2 * block(width, width, cells)
    for level in reversed(range(len(widths))):
        for _ in range(config.num_blocks + 1):
            total += block(width, widths[level], cells)
            width = widths[level]
        if 1 <= level <= num_upsamples:
            cells *= 4
            total += convolution(width, width, cells)
    return total + convolution(width, 3, cells)


def _step(
    config: InfinityConfig, batch: Batch, tokens: int, known: int, first: bool, forked: bool, last: bool
) -> Operations:
    """One step over `tokens` tokens a row, which attend to `known` of them."""
    shape = config.transformer
    width, depth, halves = shape.width, shape.depth, batch.num_halves
    own = batch.num_content + (batch.num_uncorrected if forked else 0)
    following = batch.num_corrected if forked else 0
    product = 2 * tokens * width * halves  # operations for each output channel, of one path
    # A content path whose image is not requested needs only its attention weights in the last layer.
    bare = batch.num_content - batch.num_content_drawn if last else 0
    full = own * depth - bare  # layers that own rows go through in full
    layers = full + following * depth
    return Operations(
        projections=product * width * 2 * (full + bare + layers),
        attention=product * known * (full + bare + layers),
        text_attention=product * layers * _reading(shape, batch.num_text_tokens),
        feedforward=product * layers * 2 * shape.feedforward_width,
        head=product * (own - bare + following) * 2 * config.bits_per_token
        + (0 if first else 2 * tokens * width * config.bits_per_token * (own + following)),
    )


def _reading(shape: TransformerConfig, num_tokens: int) -> int:
    """Of each channel of a token: two projections and attention, or products with texts that hold them."""
    return 2 * min(shape.width + num_tokens, shape.num_heads * num_tokens)


def _texts(shape: TransformerConfig, batch: Batch) -> Operations:
    width, tokens = shape.width, batch.num_texts * batch.num_text_tokens
    rows = batch.num_texts  # the pooled text and all modulation follow from the text alone
    # Keys and values of each layer, and where that pays the two projections within them.
    matrices = 4 if _reading(shape, batch.num_text_tokens) < 2 * width else 2
    reading = 2 * tokens * (shape.text_channels * 3 * width + width * width * (1 + matrices * shape.depth))
    pooling = 2 * rows * (width * width + 2 * batch.num_text_tokens * width)
    return Operations(texts=reading + pooling + 2 * rows * width * (6 + 2) * width)
