"""How long work takes where it is done: a GPU's host launches work far ahead of its execution."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class DeviceTimer:
    """Times pieces of work: on a GPU by the device's own clock, without waiting for it."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._host: list[float] = []
        self._events: list[torch.cuda.Event] = []

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Time what happens inside."""
        self._mark()
        yield
        self._mark()

    def seconds(self) -> tuple[float, ...]:
        """Of each piece; waits until the device has done the last one."""
        if not self._events:
            return tuple(stop - start for start, stop in zip(self._host[::2], self._host[1::2], strict=True))
        with torch.cuda.device(self._device):
            self._events[-1].synchronize()
            pairs = zip(self._events[::2], self._events[1::2], strict=True)
            return tuple(start.elapsed_time(stop) / 1000 for start, stop in pairs)  # from milliseconds

    def gaps(self) -> tuple[float, ...]:
        """Seconds on the host from the end of each piece to the beginning of the next."""
        pairs = zip(self._host[1:-1:2], self._host[2::2], strict=True)
        return tuple(start - stop for stop, start in pairs)

    def _mark(self) -> None:
        self._host.append(self._clock())
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True, blocking=True)
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)


def median_seconds(work: Callable[[], object], timer: DeviceTimer, num_times: int = 5) -> float:
    """The median of a few times that the work takes, after one that does not count."""
    for _ in range(1 + num_times):
        with timer.measure():
            work()
    return statistics.median(timer.seconds()[1:])
