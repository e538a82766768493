"""Two-dimensional rotary positions; every scale spans the same extent (golden README, 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.model.device.transfer import send
from service.model.schedule import Scale

_BASE = 10000.0


def rotations(scales: Sequence[Scale], head_width: int, extent: int, device: torch.device) -> Tensor:
    """cos and sin of every token of a schedule: [2, tokens, head_width / 2] fp32, scales one after another.

    The first half of a head's channels carries x, the second y: the other way round than Infinity's.
    """
    frequencies = 1.0 / _BASE ** (torch.arange(0, head_width, 4, dtype=torch.float32) / head_width)
    angles = torch.cat([_angles(scale, frequencies, extent) for scale in scales])
    return send(torch.stack([angles.cos(), angles.sin()]), device)


def _angles(scale: Scale, frequencies: Tensor, extent: int) -> Tensor:
    """[tokens, head_width / 2] of a square grid, row after row."""
    assert scale.height == scale.width, "Switti's grids are square"
    along = torch.arange(scale.width, dtype=torch.float32)[:, None]
    angles = along * (frequencies * (extent / max(scale.width - 1, 1)))  # [side, head_width / 4]
    grid = (scale.height, scale.width, len(frequencies))
    return torch.cat([angles[None].expand(grid), angles[:, None].expand(grid)], dim=-1).flatten(0, 1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn neighbouring channel pairs by their token's angles.

    x: [..., head_width], of a shape with which `rotation` [2, tokens, ..., head_width / 2] broadcasts.
    """
    pairs = x.unflatten(-1, (-1, 2))
    cos, sin = rotation.unbind(0)
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        # One complex product: a third of the time of four real ones and a stack, which a compiler makes one.
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin)).flatten(-2)
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
