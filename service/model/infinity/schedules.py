"""The scale schedules of Infinity: fifteen aspect ratios, four pixel budgets, as data."""

from __future__ import annotations

from collections.abc import Sequence

from service.model.schedule import Scale, Schedule, Size

# Height over width, with the thirteen (height, width) grids of the 1M budget. Wider ratios are transposes.
_PORTRAIT: dict[float, tuple[tuple[int, int], ...]] = {
    1.0: ((1, 1), (2, 2), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (20, 20), (24, 24), (32, 32),
          (40, 40), (48, 48), (64, 64)),
    1.25: ((1, 1), (2, 2), (3, 3), (5, 4), (10, 8), (15, 12), (20, 16), (25, 20), (30, 24), (35, 28),
           (45, 36), (55, 44), (70, 56)),
    1.333: ((1, 1), (2, 2), (4, 3), (8, 6), (12, 9), (16, 12), (20, 15), (24, 18), (28, 21), (36, 27),
            (48, 36), (60, 45), (72, 54)),
    1.5: ((1, 1), (2, 2), (3, 2), (6, 4), (9, 6), (15, 10), (21, 14), (27, 18), (33, 22), (39, 26),
          (48, 32), (63, 42), (78, 52)),
    1.75: ((1, 1), (2, 2), (3, 3), (7, 4), (11, 6), (14, 8), (21, 12), (28, 16), (35, 20), (42, 24),
           (56, 32), (70, 40), (84, 48)),
    2.0: ((1, 1), (2, 2), (4, 2), (6, 3), (10, 5), (16, 8), (22, 11), (30, 15), (38, 19), (46, 23),
          (60, 30), (74, 37), (90, 45)),
    2.5: ((1, 1), (2, 2), (5, 2), (10, 4), (15, 6), (20, 8), (25, 10), (30, 12), (40, 16), (50, 20),
          (65, 26), (80, 32), (100, 40)),
    3.0: ((1, 1), (2, 2), (6, 2), (9, 3), (15, 5), (21, 7), (27, 9), (36, 12), (45, 15), (54, 18),
          (72, 24), (90, 30), (111, 37)),
}  # fmt: skip
# A budget is a prefix of the 1M schedule.
BUDGETS: dict[str, int] = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
# Pixels on a side that one transformer token covers, in every released Infinity (8B: stride 8, patch 2).
STRIDE = 16


def _grids() -> dict[float, tuple[Scale, ...]]:
    grids: dict[float, tuple[Scale, ...]] = {}
    for ratio, portrait in _PORTRAIT.items():
        grids[ratio] = tuple(Scale(height, width) for height, width in portrait)
        if ratio != 1.0:
            grids[int(1000 / ratio) / 1000] = tuple(Scale(width, height) for height, width in portrait)
    return grids


GRIDS = _grids()
RATIOS: tuple[float, ...] = tuple(sorted(GRIDS))


def schedule(ratio: float, budget: str) -> Schedule:
    """The schedule of an aspect ratio (height over width, one of RATIOS) and a budget (one of BUDGETS).

    KeyError for any other value.
    """
    return _schedule_of(GRIDS[ratio][: BUDGETS[budget]], STRIDE)


def schedules(budget: str) -> dict[Size, Schedule]:
    """All fifteen schedules of a budget, the square one first."""
    square_first = sorted(RATIOS, key=lambda ratio: ratio != 1.0)
    return {found.size: found for found in (schedule(ratio, budget) for ratio in square_first)}


def custom_schedule(grids: Sequence[tuple[int, int]], stride: int) -> Schedule:
    """A schedule of one's own from (height, width) pairs."""
    return _schedule_of(tuple(Scale(height, width) for height, width in grids), stride)


def rope_extent(schedule: Schedule) -> Scale:
    """The grid whose coordinates position every token (golden README, 1.5): the last scale of the 1M schedule
    of the nearest official aspect ratio."""
    last = schedule.scales[-1]
    ratio = min(RATIOS, key=lambda known: abs(known - last.height / last.width))
    return GRIDS[ratio][-1]


def _schedule_of(scales: tuple[Scale, ...], stride: int) -> Schedule:
    last = scales[-1]
    return Schedule(Size(last.width * stride, last.height * stride), scales)
