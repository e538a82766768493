"""The scale schedules of Switti: square token grids, one schedule a model."""

from __future__ import annotations

from collections.abc import Sequence

from service.model.schedule import Scale, Schedule, Size
from service.model.switti.config import SwittiConfig

GRIDS_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
GRIDS_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)


def square_scales(sides: Sequence[int]) -> tuple[Scale, ...]:
    return tuple(Scale(side, side) for side in sides)


def schedules(config: SwittiConfig) -> dict[Size, Schedule]:
    """The one native size of a Switti."""
    scales = square_scales(config.grids)
    size = Size(config.pixels, config.pixels)
    return {size: Schedule(size, scales)}
