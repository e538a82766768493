"""Arrivals: when the requests of an open-loop load come, decided before the first is sent."""

from __future__ import annotations

import numpy as np


def arrivals(rate: float, seconds: float, seed: int) -> tuple[float, ...]:
    """Times in seconds from the start, ascending: `rate * seconds` of them, at least one, within `seconds`.

    A Poisson process given its number: independent clients, and yet exactly the rate asked for. Equal seeds
    give equal arrivals.
    """
    if not (rate > 0 and seconds > 0):
        raise ValueError(f"a load has a rate and a duration above 0, not {rate:g} a second for {seconds:g} s")
    num = max(1, round(rate * seconds))
    times = np.sort(np.random.default_rng(seed).uniform(0, seconds, num))
    return tuple(float(time) for time in times)
