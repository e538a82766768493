"""The control groups of this process: the folders that hold a container's limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def own_groups() -> str:
    """The text of /proc/self/cgroup; empty where there are no control groups."""
    file = Path("/proc/self/cgroup")
    return file.read_text() if file.exists() else ""


def folders_of(groups: str, controller: str, root: Path) -> Iterator[tuple[bool, Path]]:
    """Each folder that may hold a limit of the controller, and whether it is of version 2.

    In a container the path may be the host's, of which only the root is visible.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            inside = Path(path.lstrip("/"))
            for folder in (inside, *inside.parents):
                yield not controllers, root / controllers / folder
