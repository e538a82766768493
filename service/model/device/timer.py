"""Durations on the device that does the work: on a GPU the host launches work long before it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


class DeviceTimer:
    """Times what lies between each `start` and its `stop`: by a GPU's own clock without waiting for it,
    elsewhere by the host's `clock`, in seconds.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._host: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def start(self) -> None:
        self._host.append(self._clock())
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True, blocking=True)
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)

    stop = start

    def seconds(self) -> tuple[float, ...]:
        """Of each pair of `start` and `stop`; waits until the device has reached the last `stop`."""
        if not self._events:
            return tuple(stop - start for start, stop in zip(self._host[::2], self._host[1::2], strict=True))
        with torch.cuda.device(self._device):
            self._events[-1].synchronize()
            pairs = zip(self._events[::2], self._events[1::2], strict=True)
            return tuple(start.elapsed_time(stop) / 1000 for start, stop in pairs)  # from milliseconds

    def gaps(self) -> tuple[float, ...]:
        """Seconds on the host from each stop to the next start."""
        pairs = zip(self._host[1:-1:2], self._host[2::2], strict=True)
        return tuple(start - stop for stop, start in pairs)
