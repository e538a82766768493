"""A number with its 95 % confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z = 1.96
_RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Estimate:
    value: float
    low: float
    high: float

    def percent(self) -> str:
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} - {100 * self.high:.1f})"


def share(hits: NDArray[np.bool_]) -> Estimate:
    """Of how many hits are true: Wilson's interval, which stays sensible at 0 and at 1."""
    n, p = len(hits), float(np.mean(hits))
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    # Rounding may put an end a hair inside the share itself, when that is 0 or 1.
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def bootstrapped(
    samples: NDArray[np.floating], statistic: Callable[[NDArray[np.floating]], float]
) -> Estimate:
    """A statistic of samples [samples, ...], and percentiles of a seeded bootstrap over the first axis."""
    rng = np.random.default_rng(0)
    n = len(samples)
    again = [statistic(samples[rng.integers(n, size=n)]) for _ in range(_RESAMPLES)]
    low, high = np.percentile(again, (2.5, 97.5))
    return Estimate(statistic(samples), float(low), float(high))


def estimated_mean(samples: NDArray[np.floating]) -> Estimate:
    """The mean over all axes of samples [samples, ...]."""
    return bootstrapped(samples, lambda values: float(values.mean()))
