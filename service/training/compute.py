"""Where a training computes, and in which precision."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Compute:
    """A device, and the dtype its matrix products run in; weights, norms and losses stay fp32."""

    device: torch.device
    precision: torch.dtype

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, self.precision, enabled=self.precision is not torch.float32, cache_enabled=False
        )


def fastest(device: str = "auto") -> Compute:
    """The GPU if there is one, else the CPU; bf16 where this machine multiplies faster in it."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    chosen = torch.device(name)
    precisions = (torch.float32, torch.bfloat16)
    return Compute(chosen, min(precisions, key=lambda precision: _seconds(chosen, precision)))


def _seconds(device: torch.device, precision: torch.dtype) -> float:
    matrix = torch.ones(768, 768, device=device, dtype=precision)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        times.append(time.perf_counter() - began)
    return min(times)
