"""On what something was measured."""

from __future__ import annotations

import platform

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
