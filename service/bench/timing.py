"""Timing: kinds of work side by side, so that what disturbs one disturbs the others as much."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from service.bench.samples import Samples

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
    """Each repetition does every work once, beginning with another one each time; the first do not count.

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
