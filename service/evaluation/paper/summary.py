"""From records of images to estimates: means over the grid of prompts and styles, with intervals.

Images of one prompt, or of one style, are alike: an interval that took them for independent would be too
narrow. So the bootstrap draws prompts and styles anew, each by themselves (Owen, 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from service.evaluation.intervals import Estimate
from service.evaluation.paper.journal import PLACES, Record

Grid = NDArray[np.float64]  # [prompts, styles]
_RESAMPLES = 1_000


def grids(records: Sequence[Record]) -> dict[str, dict[str, Grid]]:
    """By arm and score."""
    num_rows = 1 + max(record["row"] for record in records)
    num_columns = 1 + max(record["column"] for record in records)
    found: dict[str, dict[str, Grid]] = {}
    for record in records:
        of_arm = found.setdefault(record["arm"], {})
        for name in record.keys() - PLACES:
            grid = of_arm.setdefault(name, np.full((num_rows, num_columns), np.nan))
            grid[record["row"], record["column"]] = record[name]
    return found


def estimated_grid_mean(grid: Grid) -> Estimate:
    """The mean of a grid, and 95 % of a seeded bootstrap over prompts and over styles."""
    return _estimate(float(grid.mean()), resampled_means(grid))


def estimated_harmonic_mean(first: Grid, second: Grid) -> Estimate:
    """The harmonic mean of the two means, as in the paper, whose S_harm are those of its S_txt and S_img."""
    again = harmonic_mean(resampled_means(first), resampled_means(second))
    return _estimate(float(harmonic_mean(first.mean(), second.mean())), again)


def harmonic_mean(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 where not both are above 0: a cosine below 0 is no likeness at all."""
    total = np.maximum(first, 0) + np.maximum(second, 0)
    return 2 * np.maximum(first, 0) * np.maximum(second, 0) / np.where(total > 0, total, 1)


def resampled_means(grid: Grid) -> NDArray[np.float64]:
    """[resamples]: the mean over prompts and styles that were drawn with replacement."""
    rows, columns = _shares(*grid.shape)
    means: NDArray[np.float64] = ((rows @ grid) * columns).sum(1)
    return means


@lru_cache(maxsize=4)
def _shares(num_rows: int, num_columns: int) -> tuple[Grid, Grid]:
    """How much of each resample each row has, and each column: the same for all, so that arms are paired."""
    rng = np.random.default_rng(0)
    rows, columns = (
        rng.multinomial(num, np.full(num, 1 / num), size=_RESAMPLES) / num for num in (num_rows, num_columns)
    )
    return rows, columns


def _estimate(value: float, again: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(again, (2.5, 97.5))
    # Rounding may put an end a hair inside the value itself, where all resamples agree.
    return Estimate(value, min(value, float(low)), max(value, float(high)))
