"""The machine that something is measured on: its name, its memory, and its measured peak rates."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


def describe(device: torch.device) -> str:
    """The processor's or the GPU's name, and how many threads the model has of the former."""
    return f"{hardware_name(device)}; {num_threads()} threads"


def num_threads() -> int:
    return torch.get_num_threads()


def torch_version() -> str:
    return torch.__version__


def hardware_name(device: torch.device) -> str:
    """The name of what the model runs on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def peak_bytes(device: torch.device) -> int | None:
    """The most of a GPU's memory that was in use since `forget_peak`; None of a processor."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


_TRIES = 5


@dataclass(frozen=True, slots=True)
class Peaks:
    """Rates that nothing on this device can exceed by much: a roofline's two sides."""

    flops_per_second: float
    bytes_per_second: float


def measure_peaks(
    device: torch.device, dtype: torch.dtype, *, side: int | None = None, copied: int | None = None
) -> Peaks:
    """The best of a few tries, since whatever else runs can only slow them.

    `side` is that of the square matrices, `copied` the bytes of the copy; by default neither fits the
    caches. A copy reads and writes: its traffic is twice its size.
    """
    is_gpu = device.type == "cuda"
    side = side or (8192 if is_gpu else 1536)
    copied = copied or (2**30 if is_gpu else 2**27)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    matmul = min(_seconds(lambda: torch.mm(left, right, out=product), device) for _ in range(_TRIES))
    copy = min(_seconds(lambda: target.copy_(source), device) for _ in range(_TRIES))
    return Peaks(2 * side**3 / matmul, 2 * copied / copy)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
