"""How many images fit beside the resident weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from service.model.backbone import AnyBackbone
from service.model.device.control_groups import ROOT, folders_of, own_groups
from service.model.schedule import Size

# Share of the free memory that a batch may take. On a CPU the rest is for other programs and for decoding
# uploads; on a GPU it is what fragmentation keeps the allocator from using.
SHARES = {"cpu": 0.8, "cuda": 0.9}
# Beyond this many images a batch gains nothing on any device measured, and its first job waits for its last.
MAX_IMAGES = 16


@dataclass(frozen=True, slots=True)
class BatchLimits:
    num_bytes: int  # that a batch may take
    max_images: dict[Size, int]  # stylised images of each size in one batch; 0: not even one fits


def batch_limits(backbone: AnyBackbone, num_bytes: int | None = None) -> BatchLimits:
    """The limits in `num_bytes`, by default in what is free: call it with nothing running."""
    if num_bytes is None:
        free = free_bytes(backbone.device, backbone.mapped_bytes)
        num_bytes = int(free * SHARES.get(backbone.device.type, SHARES["cuda"]))
    max_images = {
        size: next((n for n in range(MAX_IMAGES, 0, -1) if backbone.batch_bytes(schedule, n) <= num_bytes), 0)
        for size, schedule in backbone.schedules.items()
    }
    return BatchLimits(num_bytes, max_images)


def free_bytes(device: torch.device, mapped_bytes: int = 0) -> int:
    """Memory that could be allocated: on a GPU including what torch's allocator has cached, on a CPU within
    the container's limit.

    `mapped_bytes` of weights are mapped from files: the system counts these pages as free, but they are used.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    available = _available_bytes() - mapped_bytes
    limit = headroom(own_groups())
    return max(0, available if limit is None else min(available, limit - mapped_bytes))


def _available_bytes() -> int:
    """Memory of the machine that could be allocated without swapping."""
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        import psutil

        return int(psutil.virtual_memory().available)


# The files of a limit and of its usage, and the statistic of pages that can be dropped, by whether the
# control group is of version 2.
_FILES = {
    True: ("memory.max", "memory.current", "inactive_file"),
    False: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def headroom(groups: str, root: Path = ROOT) -> int | None:
    """Bytes left under the tightest limit of this process's control groups; None without a limit.

    `groups` is the text of /proc/self/cgroup. Cached files that were read once do not count as used: the
    kernel drops them first.
    """
    left = [_bytes_left(folder, *_FILES[is_v2]) for is_v2, folder in folders_of(groups, "memory", root)]
    limited = [num_bytes for num_bytes in left if num_bytes is not None]
    return max(0, min(limited)) if limited else None


def _bytes_left(folder: Path, limit: str, usage: str, droppable: str) -> int | None:
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if most == "max":
            return None
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        statistics = {name: int(value) for name, value in lines}
    except (OSError, ValueError):
        return None
    return int(most) - used + statistics.get(droppable, 0)
