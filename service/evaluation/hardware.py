"""On what something was measured."""

from __future__ import annotations

import platform

import torch


def describe(device: torch.device) -> str:
    """The processor's or the GPU's name, and how many threads the model has of the former."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name}; {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
