"""What this machine can do at best, measured: one large matrix product, and one large copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

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
