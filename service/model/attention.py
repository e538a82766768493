"""Self-attention whose weights are computed once for a content row and for all rows that are corrected by it.

Structural Attention Correction, of the paper: a corrected generation row attends with the queries and
keys of its content row, and with its own values. Where a scale attends to those before it, their keys and
values are cached; where it attends to itself alone, the content row's queries and keys of the same step are
all that is needed.

The one seam between the models and the kernels of a device. Shapes: queries [own rows, tokens, heads, head
width]; keys [own rows, heads, known tokens, head width]; values [rows, heads, known tokens, head width]. Own
rows are those that compute queries and keys.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from service.model.device.timer import DeviceTimer, median_seconds
from service.model.schedule import Schedule
from service.model.shared_attention import attend, is_shareable, shared_attention

log = logging.getLogger(__name__)

# Torch's, of which the fastest attends where no row follows another. FlexAttention is for masks, of which
# there are none.
KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
_NUM_ROWS = 2  # of an image without a style: its guidance halves


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """One layer's keys and values of a batch, allocated once for a schedule, and where this step's go."""

    keys: Tensor  # [own rows, heads, tokens of the schedule, head width]
    values: Tensor  # [rows, heads, tokens of the schedule, head width]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class StepAttention:
    """How the rows of one layer attend at one step."""

    sources: tuple[int, ...]  # a row of the result: the own row whose queries and keys it uses
    source_rows: Tensor | None = None  # the same on the device; None where each row is its own
    groups: Tensor | None = None  # `row_groups` of the sources; None where each row is its own
    kept: Tensor | None = None  # the rows of the result among the cached ones; None: all
    cached: CachedLayer | None = None  # None: the scale attends to itself alone
    is_fused: bool = False  # whether torch's fused kernels attend, which compilers know

    def attend(self, queries: Tensor, keys: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Attend with new keys and values, [rows, tokens, heads, head width]: [rows, tokens, channels].

        The values come in parts that make up the rows of the result. What is cached gets both first.
        """
        if self.is_fused and self.groups is not None and is_shareable(queries):
            return self._shared(queries, keys, values, self.groups)
        if self.cached is None:
            known_keys, known_values = keys.transpose(1, 2), _joined(values).transpose(1, 2)
            if not self.is_fused:  # a head's rows must be neighbours: oneDNN is slow on others
                known_keys, known_values = known_keys.contiguous(), known_values.contiguous()
        else:
            known_keys, known_values = self._extended(self.cached, keys, values)
        if self.is_fused:
            return attend_fused(queries, known_keys, known_values, self.source_rows)
        return attend(queries, known_keys, known_values, self.sources)

    def _shared(self, queries: Tensor, keys: Tensor, values: Sequence[Tensor], groups: Tensor) -> Tensor:
        """Each own row's scores once, for all rows that use them."""
        assert self.source_rows is not None, "groups come with the sources on the device"
        # Not of `sources`, whose number a compiler would write into its code.
        own = torch.arange(self.source_rows.shape[0], device=queries.device)
        if self.cached is None:
            known = _joined(values).transpose(1, 2)
            return shared_attention(queries, keys.transpose(1, 2), known, groups, own, queries.shape[1])
        self._extend(self.cached, keys, values)
        rows = own if self.kept is None else self.kept
        return shared_attention(queries, self.cached.keys, self.cached.values, groups, rows, self.cached.end)

    def _extended(self, layer: CachedLayer, keys: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens so far, the new ones included."""
        self._extend(layer, keys, values)
        known = layer.values if self.kept is None else layer.values[self.kept]
        return layer.keys[:, :, : layer.end], known[:, :, : layer.end]

    def _extend(self, layer: CachedLayer, keys: Tensor, values: Sequence[Tensor]) -> None:
        now = slice(layer.start, layer.end)
        layer.keys[:, :, now] = keys.transpose(1, 2)
        if self.kept is not None:
            layer.values[:, :, now].index_copy_(0, self.kept, values[0].transpose(1, 2))
        elif self.is_fused:
            # At once: a compiler copies the whole cache for each part that goes into a view of a view.
            layer.values[:, :, now] = _joined(values).transpose(1, 2)
        else:
            new = layer.values[:, :, now].split([len(part) for part in values])
            for part, rows in zip(values, new, strict=True):
                rows.copy_(part.transpose(1, 2))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def attend_fused(queries: Tensor, keys: Tensor, values: Tensor, source_rows: Tensor | None) -> Tensor:
    """`attend` by torch's fused kernels; `source_rows` are its sources, or None where each row is its own."""
    queries = queries.transpose(1, 2)
    if source_rows is not None:
        # What `shared_attention` does not take: torch's kernels cost a copy of the keys.
        queries, keys = queries[source_rows], keys[source_rows]
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0).transpose(1, 2).flatten(2)


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The attention of a model's image without a style."""

    lengths: tuple[tuple[int, int], ...]  # of each step, its tokens and those that they attend to
    num_heads: int
    head_width: int

    @classmethod
    def of(cls, schedule: Schedule, num_heads: int, head_width: int, *, attends_back: bool) -> AttentionShape:
        """`attends_back`: whether a scale attends to those before it, and not to itself alone."""
        counts = [scale.num_tokens for scale in schedule.scales]
        known = [sum(counts[: index + 1]) if attends_back else count for index, count in enumerate(counts)]
        return cls(tuple(zip(counts, known, strict=True)), num_heads, head_width)


@cache
def use_fastest_kernel(shape: AttentionShape, device: torch.device, dtype: torch.dtype) -> SDPBackend | None:
    """Measure torch's kernels on a GPU, and have this process use the fastest; None where none takes these.

    Which one it is differs by generation: on Hopper cuDNN's, elsewhere mostly FlashAttention. The one for all
    shapes stays on beside it, for texts, whose bias others refuse or make a plan for at each new length.
    """
    seconds = kernel_seconds(shape, device, dtype)
    fastest = min(seconds, key=seconds.__getitem__, default=None)
    torch.backends.cuda.enable_flash_sdp(fastest is SDPBackend.FLASH_ATTENTION)
    torch.backends.cuda.enable_cudnn_sdp(fastest is SDPBackend.CUDNN_ATTENTION)
    measured = ", ".join(f"{kernel.name} {1000 * taken:.1f} ms" for kernel, taken in seconds.items())
    log.info("attention without followers uses %s, of %s", fastest and fastest.name, measured or "none")
    return fastest


@torch.inference_mode()
def kernel_seconds(
    shape: AttentionShape,
    device: torch.device,
    dtype: torch.dtype,
    kernels: Sequence[SDPBackend] = KERNELS,
    new_timer: Callable[[torch.device], DeviceTimer] = DeviceTimer,
) -> dict[SDPBackend, float]:
    """How long each kernel takes for all steps of an image, the median of a few times after the first;
    without those that do not take these tensors."""

    def attend_all() -> None:
        for num_tokens, num_known in shape.lengths:
            queries = known[:, :num_tokens]
            keys = known[:, :num_known].transpose(1, 2)
            attend_fused(queries, keys, keys, None)

    most = max(num_known for _, num_known in shape.lengths)
    known = torch.randn(_NUM_ROWS, most, shape.num_heads, shape.head_width, device=device).to(dtype)
    known /= shape.head_width**0.5
    found = {}
    for kernel in kernels:
        try:
            with sdpa_kernel(kernel), warnings.catch_warnings(action="ignore"):
                found[kernel] = median_seconds(attend_all, new_timer(device))
        except RuntimeError:  # of this GPU, dtype or head width, or not in this build
            continue
    return found
