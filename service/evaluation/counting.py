"""Counting what drawing asks of the machine, step by step: operations, and bytes that pass through them."""

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

from service.model.engine.generator import Cancelled, Generator
from service.model.engine.types import ImageSpec


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
        every = [one.plus(two.plus(one, -1), num_more) for one, two in pairs]
        return Counts(tuple(every[:-1]), every[-1])


class Traffic(TorchDispatchMode):
    """Adds up the bytes of what each operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        read = _tensors((args, kwargs))
        owned = {each.untyped_storage().data_ptr() for each in read}
        if func._schema.is_mutable:
            written = []  # what it writes is among its arguments
        else:
            written = [tensor for tensor in _tensors(out) if tensor.untyped_storage().data_ptr() not in owned]
            if not written or "empty" in func._schema.name:
                return out
        self.num_bytes += sum(_num_bytes(each) for each in (*read, *written))
        return out


def operations() -> FlopCounterMode:
    """A context that counts multiplications and additions, attention on the CPU included."""
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)


def count(generator: Generator, specs: Sequence[ImageSpec]) -> Counts:
    """Count while a batch is drawn. Texts are encoded beforehand and do not count."""
    with suppress(Cancelled):
        generator.generate(specs, lambda: False)
    seen: list[Count] = []
    with operations() as flops, Traffic() as traffic:

        def look() -> bool:
            seen.append(Count(flops.get_total_flops(), traffic.num_bytes))
            return False

        generator.generate(specs, look)
        look()
    parts = [seen[0], *(later.plus(earlier, -1) for earlier, later in pairwise(seen))]
    return Counts(tuple(parts[:-1]), parts[-1])


def _attention(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)
    return flops


def _linear(x: torch.Size, weight: torch.Size, *rest: Any, **more: Any) -> int:
    return 2 * prod(x) * weight[0]


# Kernels for the CPU that torch's counter does not know.
_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.mkldnn._linear_pointwise: _linear,
}


def _tensors(tree: Any) -> list[torch.Tensor]:
    found = {
        id(tree_leave): tree_leave for tree_leave in tree_leaves(tree) if isinstance(tree_leave, torch.Tensor)
    }
    return list(found.values())


def _num_bytes(tensor: torch.Tensor) -> int:
    # A tensor that was expanded is read once.
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
