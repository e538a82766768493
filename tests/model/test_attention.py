"""Which of torch's kernels attends where no row follows another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import SDPBackend

from service.model.attention import AttentionShape, kernel_seconds, use_fastest_kernel
from service.model.device.timer import DeviceTimer
from service.model.schedule import Scale, Schedule, Size

CPU = torch.device("cpu")
SCHEDULE = Schedule(Size(32, 32), (Scale(1, 1), Scale(2, 2), Scale(4, 4)))
ON_CPU = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)


@pytest.fixture
def torch_settings() -> Iterator[None]:
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    yield
    use_fastest_kernel.cache_clear()
    torch.backends.cuda.enable_flash_sdp(before[0])
    torch.backends.cuda.enable_cudnn_sdp(before[1])


def test_a_scale_attends_to_those_before_it_or_to_itself_alone() -> None:
    back = AttentionShape.of(SCHEDULE, 2, 16, attends_back=True)
    assert back.lengths == ((1, 1), (4, 5), (16, 21))
    assert AttentionShape.of(SCHEDULE, 2, 16, attends_back=False).lengths == ((1, 1), (4, 4), (16, 16))


def test_kernels_that_are_not_here_are_left_out_and_the_others_are_timed() -> None:
    shape = AttentionShape.of(SCHEDULE, 2, 16, attends_back=True)
    seconds = kernel_seconds(shape, CPU, torch.float32, ON_CPU)
    assert set(seconds) == {SDPBackend.FLASH_ATTENTION, SDPBackend.MATH}
    assert all(taken > 0 for taken in seconds.values())


def test_the_first_time_does_not_count_and_the_median_of_the_others_does() -> None:
    durations = iter([9.0, 1.0, 2.0, 7.0, 3.0, 4.0])  # of the six times

    def clock() -> Iterator[float]:
        now = 0.0
        for taken in durations:
            yield now
            now += taken
            yield now

    ticks = clock()
    shape = AttentionShape.of(SCHEDULE, 2, 16, attends_back=True)
    found = kernel_seconds(
        shape, CPU, torch.float32, (SDPBackend.MATH,), lambda device: DeviceTimer(device, ticks.__next__)
    )
    assert found == {SDPBackend.MATH: 3.0}


def test_the_fastest_kernel_is_used_and_measured_once(
    torch_settings: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A CPU has one of the three."""
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(True)
    shape = AttentionShape.of(SCHEDULE, 2, 16, attends_back=True)
    with caplog.at_level("INFO"):
        chosen = [use_fastest_kernel(shape, CPU, torch.float32) for _ in range(2)]
    assert chosen == [SDPBackend.FLASH_ATTENTION] * 2
    assert torch.backends.cuda.flash_sdp_enabled()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("attention without followers uses FLASH_ATTENTION, of FLASH_ATTENTION ")
