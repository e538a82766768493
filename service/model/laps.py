"""How long steps take where they run: a GPU's host launches them far ahead."""

from __future__ import annotations

import time

import torch


class Laps:
    """Between each `start` and its `stop`, in seconds: of a GPU's own clock, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moments: list[torch.cuda.Event | float] = []

    def start(self) -> None:
        self._moments.append(self._now())

    stop = start

    def seconds(self) -> tuple[float, ...]:
        """Of every lap so far; waits until the device has done the last one."""
        return tuple(map(_between, self._moments[::2], self._moments[1::2]))

    def _now(self) -> torch.cuda.Event | float:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(start: torch.cuda.Event | float, stop: torch.cuda.Event | float) -> float:
    if isinstance(start, float) and isinstance(stop, float):
        return stop - start
    assert isinstance(start, torch.cuda.Event)
    assert isinstance(stop, torch.cuda.Event)
    stop.synchronize()
    return start.elapsed_time(stop) / 1000  # in milliseconds
