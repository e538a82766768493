"""What laps measure on the host. On a GPU they are its own events, which nothing here can run."""

from __future__ import annotations

import time

import torch

from service.model.device.timer import DeviceTimer


def test_laps_are_what_lies_between_each_start_and_its_stop() -> None:
    laps, began = DeviceTimer(torch.device("cpu")), time.perf_counter()
    for _ in range(3):
        laps.start()
        laps.stop()
    first = time.perf_counter() - began
    laps.start()
    while time.perf_counter() - began < 2 * first + 0.01:
        pass
    laps.stop()
    *short, long = laps.seconds()
    assert 0 <= sum(short) <= first
    assert 0.009 < long <= time.perf_counter() - began
    assert len(short) == 3
    assert len(laps.gaps()) == 3
    assert all(0 <= gap <= first for gap in laps.gaps())


def test_no_laps_take_no_time() -> None:
    assert DeviceTimer(torch.device("cpu")).seconds() == ()
    assert DeviceTimer(torch.device("cpu")).gaps() == ()
