"""How many images fit beside the resident weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from service.model.backbone import Backbone, Size
from service.model.cgroup import headroom

# Share of the free memory that a batch may take. On a CPU the rest is for everybody else, and for decoding
# uploads; on a GPU it is what its allocator cannot use, memory in pieces.
SHARES = {"cpu": 0.8, "cuda": 0.9}
# Beyond this many images a batch gains nothing on any device measured, and its first job waits for its last.
MOST_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Fit:
    """The stylised images of each size that one batch may hold in a given memory; 0: not even one."""

    num_bytes: int  # that a batch may take
    num_images: dict[Size, int]


def fit(backbone: Backbone[Any]) -> Fit:
    """Into what is free now: ask when the weights are resident and nothing is running."""
    free = free_bytes(backbone.device, backbone.mapped_bytes)
    return fitted(backbone, int(free * SHARES[backbone.device.type]))


def fitted(backbone: Backbone[Any], num_bytes: int) -> Fit:
    """Into so many bytes."""

    def images(size: Size) -> int:
        schedule = backbone.schedules[size]
        fitting = (n for n in range(MOST_IMAGES, 0, -1) if backbone.batch_bytes(schedule, n) <= num_bytes)
        return next(fitting, 0)

    return Fit(num_bytes, {size: images(size) for size in backbone.schedules})


def free_bytes(device: torch.device, mapped_bytes: int = 0) -> int:
    """What could be taken: on a GPU also what torch's allocator holds without using it, on a CPU no more than
    the container's limit leaves.

    Weights of `mapped_bytes` are in files, whose pages the system counts as free, and which are wanted.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    available = int(psutil.virtual_memory().available) - mapped_bytes
    groups = Path("/proc/self/cgroup")
    room = headroom(groups.read_text()) if groups.exists() else None
    return max(0, available if room is None else min(available, room - mapped_bytes))
