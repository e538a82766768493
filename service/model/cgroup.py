"""What a container leaves: the memory limits of Linux control groups, versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
