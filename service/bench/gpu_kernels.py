"""The kernels of our own on a device: beside their references, and their times beside torch's kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.bench.report import Row, Table
from service.model.attention import KERNELS, AttentionShape, attend_fused, kernel_seconds
from service.model.device.timer import DeviceTimer, median_seconds
from service.model.infinity.presets import RELEASED
from service.model.shared_attention import row_groups, shared_attention

_NUM_COMPARED = 256  # queries: the reference keeps all scores in fp32
# Of the largest value: fp32 up to the order of sums, bf16 up to its rounding of weights and results.
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of two content rows with `num_followers` each; `num_known` of `room` tokens are known."""

    num_followers: int
    num_tokens: int
    num_known: int
    num_heads: int = 16
    head_width: int = 128
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        return (
            f"{self.num_followers} followers, {self.num_tokens} of {self.num_known} tokens, "
            f"{self.num_heads} x {self.head_width}, {str(self.dtype).removeprefix('torch.')}"
        )


# Infinity-2B's grids of 64 x 64 and 12 x 12, for one style and four; small and odd ones in fp32 as well.
_LARGE = (_Shape(1, 4096, 10521), _Shape(4, 4096, 10521), _Shape(1, 144, 265), _Shape(8, 144, 265))
_SMALL = tuple(_Shape(number, 9, 31, 2, 32, torch.float32) for number in range(1, 9))


def measure_kernels(device: torch.device) -> tuple[tuple[Table, ...], bool]:
    """A table of shared attention, and whether all of it agrees; one of torch's kernels where no row follows
    another. Small shapes alone on a CPU."""
    rows, is_right = [], True
    for shape in _SMALL if device.type == "cpu" else (*_SMALL, *_LARGE):
        row, agrees = _shared_attention(shape, device)
        rows.append(row)
        is_right = is_right and agrees
    shared = Table("shared attention, beside torch's with copied keys", tuple(rows))
    return (shared, _without_followers(device)), is_right


def _without_followers(device: torch.device) -> Table:
    """Of Infinity-2B's first size; on a CPU of its first scales."""
    config = RELEASED["infinity-2b"].config
    schedule = next(iter(config.schedules().values()))
    if device.type == "cpu":
        schedule = replace(schedule, scales=schedule.scales[:3])
    heads = config.transformer
    shape = AttentionShape.of(schedule, heads.num_heads, heads.head_width, attends_back=True)
    seconds = kernel_seconds(shape, device, torch.bfloat16)
    rows = [Row(kernel.name, {"median_seconds": seconds.get(kernel)}) for kernel in KERNELS]
    return Table("attention of an image without a style, all steps of one layer", tuple(rows))


@torch.inference_mode()
def _shared_attention(shape: _Shape, device: torch.device) -> tuple[Row, bool]:
    sources = (0, 1) * (1 + shape.num_followers)
    random = torch.Generator().manual_seed(0)

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=random).to(device, shape.dtype)

    room, heads, width = shape.num_known + 5, shape.num_heads, shape.head_width
    queries = drawn(2, shape.num_tokens, heads, width) * width**-0.5
    keys, values = drawn(2, heads, room, width), drawn(len(sources), heads, room, width)
    keys[:, :, shape.num_known :] = values[:, :, shape.num_known :] = torch.nan
    groups, rows = row_groups(sources, device), torch.arange(len(sources), device=device)
    known_keys, known_values = keys[:, :, : shape.num_known], values[:, :, : shape.num_known]
    source_rows = torch.tensor(sources, device=device)

    def ours() -> Tensor:
        result: Tensor = shared_attention(queries, keys, values, groups, rows, shape.num_known)
        return result

    def theirs() -> Tensor:
        return attend_fused(queries, known_keys, known_values, source_rows)

    few = queries[:, :_NUM_COMPARED].float()
    reference = attend_fused(few, known_keys.float(), known_values.float(), source_rows)
    difference = (ours()[:, :_NUM_COMPARED].float() - reference).abs().max() / reference.abs().max()
    share, tolerance = difference.item(), _TOLERANCES[shape.dtype]
    seconds, theirs_seconds = (
        median_seconds(ours, DeviceTimer(device)),
        median_seconds(theirs, DeviceTimer(device)),
    )
    measured = {
        "difference_share": share,
        "tolerance_share": tolerance,
        "median_seconds": seconds,
        "torch_seconds": theirs_seconds,
        "median_ratio": seconds / theirs_seconds,
    }
    return Row(str(shape), dict(measured)), share <= tolerance  # false for NaN
