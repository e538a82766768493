"""How many images fit beside the resident weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from service.model.backbone import AnyBackbone
from service.model.schedule import Size

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


def fit(backbone: AnyBackbone) -> Fit:
    """Into what is free now: ask when the weights are resident and nothing is running."""
    free = free_bytes(backbone.device, backbone.mapped_bytes)
    return fitted(backbone, int(free * SHARES[backbone.device.type]))


def fitted(backbone: AnyBackbone, num_bytes: int) -> Fit:
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


# A limit, what is used of it, and by which name its statistics call the pages that can be dropped.
_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def headroom(groups: str, root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this program may still take under the tightest of its groups' limits; None without any.

    `groups` is the text of /proc/self/cgroup. Cached files that were read once do not count as taken: the
    kernel drops them first.
    """
    rooms = [room for folder, names in _groups(groups, root) if (room := _room(folder, *names)) is not None]
    return max(0, min(rooms)) if rooms else None


def _groups(groups: str, root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of a program's memory groups, from its own to the root's, with the names of their files."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in _FILES:
            continue
        top = root / controllers
        # In a container the path may be the host's, of which only the root is to be seen.
        inside = Path(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            yield top / folder, _FILES[controllers]


def _room(folder: Path, limit: str, usage: str, droppable: str) -> int | None:
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if most == "max":
            return None
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        statistics = {name: int(value) for name, value in lines}
    except (OSError, ValueError):
        return None
    return int(most) - used + statistics.get(droppable, 0)
