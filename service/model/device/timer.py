"""How long work takes where it is done: a GPU's host launches it far ahead."""

from __future__ import annotations

import time

import torch


class DeviceTimer:
    """What lies between each `start` and its `stop`: of a GPU by its own clock, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def start(self) -> None:
        self._host.append(time.perf_counter())
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True, blocking=True)
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)

    stop = start

    def seconds(self) -> tuple[float, ...]:
        """Of every lap; waits until the device has done the last one."""
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
