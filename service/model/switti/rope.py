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
