"""What the timer measures on the host. On a GPU it reads the GPU's own events, which nothing here can run."""

from __future__ import annotations

import torch

from service.model.device.timer import DeviceTimer

CPU = torch.device("cpu")


def test_laps_have_durations_and_gaps_between_them() -> None:
    times = iter((1.0, 1.5, 2.0, 4.0, 4.25, 4.5))
    timer = DeviceTimer(CPU, clock=lambda: next(times))
    for _ in range(3):
        with timer.measure():
            pass
    assert timer.seconds() == (0.5, 2.0, 0.25)
    assert timer.gaps() == (0.5, 0.25)


def test_a_timer_that_was_never_started_has_no_durations() -> None:
    assert DeviceTimer(CPU).seconds() == ()
    assert DeviceTimer(CPU).gaps() == ()
