"""Timing: kinds of work measured in turns, and the statistics that so many samples support."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.bench.report import Value


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that `share` of them do not exceed; None of too few: p95 needs 20, p99 needs 100."""
    is_enough = len(values) * (100 - round(100 * share)) >= 100
    return float(np.quantile(values, share)) if is_enough else None


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The quartiles, between which half of the values lie."""
    low, high = np.quantile(values, (0.25, 0.75))
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds of each repetition that counts; CPU seconds, of all threads, where they are measured."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    def values(self) -> dict[str, Value]:
        """For a row of a report."""
        low, high = spread(self.wall)
        return {
            "median_seconds": self.median,
            "low_seconds": low,
            "high_seconds": high,
            "p95_seconds": percentile(self.wall, 0.95),
            "p99_seconds": percentile(self.wall, 0.99),
            "cpu_seconds": statistics.median(self.cpu) if self.cpu else None,
            "num_samples": len(self.wall),
        }


def ratio(of: Samples, to: Samples) -> dict[str, Value]:
    """How many times as long `of` takes as `to`: the median over the repetitions, each against its own.

    Those stood side by side, so that what slowed one slowed the other.
    """
    ratios = [one / other for one, other in zip(of.wall, to.wall, strict=True)]
    low, high = spread(ratios)
    cpu = [one / other for one, other in zip(of.cpu, to.cpu, strict=True) if other > 0]
    return {
        "median_ratio": statistics.median(ratios),
        "low_ratio": low,
        "high_ratio": high,
        "cpu_ratio": statistics.median(cpu) if cpu else None,
    }


# Does the work of one repetition, whose number it gets, and returns when nothing of it is still running.
Work = Callable[[int], object]


def interleaved(
    works: Mapping[str, Work],
    *,
    num_repeats: int,
    num_warm_up: int,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] | None = time.process_time,
) -> dict[str, Samples]:
    """Each repetition does every work once, in rotating order; the first `num_warm_up` do not count.

    `cpu_clock` None: processor time says nothing, as where a GPU does the work.
    """
    names = list(works)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for number in range(num_warm_up + num_repeats):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began, cpu_began = clock(), cpu_clock() if cpu_clock else 0.0
            works[name](number)
            wall[name].append(clock() - began)
            cpu[name].append((cpu_clock() if cpu_clock else 0.0) - cpu_began)
    return {
        name: Samples(tuple(wall[name][num_warm_up:]), tuple(cpu[name][num_warm_up:]) if cpu_clock else ())
        for name in names
    }
