"""Two-dimensional rotary positions in the coordinates of the finest grid (golden README, 1.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from service.model.device.transfer import send
from service.model.infinity.schedules import rope_extent
from service.model.schedule import Scale, Schedule

_BASE = 10000.0


def rotations(schedule: Schedule, head_width: int, device: torch.device) -> Tensor:
    """cos and sin of every token of a schedule: [2, tokens, head_width / 2] fp32, scales one after another.

    The first half of a head's channels carries y, the second x.
    """
    quarter = head_width // 4
    frequencies = 1.0 / _BASE ** (torch.arange(quarter, dtype=torch.float32) * 2 / (head_width // 2))
    extent = rope_extent(schedule)
    angles = torch.cat([_angles(scale, extent, frequencies) for scale in schedule.scales])
    return send(torch.stack([angles.cos(), angles.sin()]), device)


def _angles(scale: Scale, extent: Scale, frequencies: Tensor) -> Tensor:
    # fp32 before rounding half to even, as in the reference: ratios other than 1 have ties.
    ys = (torch.arange(scale.height, dtype=torch.float32) * (extent.height / scale.height)).round()
    xs = (torch.arange(scale.width, dtype=torch.float32) * (extent.width / scale.width)).round()
    grid = (scale.height, scale.width, len(frequencies))
    vertical = (ys[:, None] * frequencies)[:, None].expand(grid)
    horizontal = (xs[:, None] * frequencies)[None].expand(grid)
    return torch.cat([vertical, horizontal], dim=-1).flatten(0, 1)  # [tokens, head_width / 2]
