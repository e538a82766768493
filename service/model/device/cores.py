"""The cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from service.model.device.control_groups import ROOT, folders_of, own_groups


def usable_cores(num_cores: int | None = None, groups: str | None = None, root: Path = ROOT) -> int:
    """Whole cores, of those that affinity and the quotas of a container allow; at least one.

    `groups` is the text of /proc/self/cgroup, whose quotas count as cores; without arguments, this machine's.
    """
    if num_cores is None:
        num_usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_cores = min(num_usable, _physical_cores() or num_usable)
    for _, folder in folders_of(own_groups() if groups is None else groups, "cpu", root):
        num_cores = min([num_cores, *_cores_allowed(folder)])
    return max(1, num_cores)


def _physical_cores() -> int | None:
    try:
        import psutil  # many commands do without it, and `make gpu` where it is not installed
    except ImportError:
        return None
    return psutil.cpu_count(logical=False)


def _cores_allowed(folder: Path) -> list[int]:
    """The quota of a control group of either version, rounded up to whole cores; empty without one."""
    files = [folder / "cpu.max", folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"]
    numbers = " ".join(file.read_text() for file in files if file.exists()).split()
    if len(numbers) != 2 or not numbers[0].isdigit():  # "max", or -1
        return []
    quota, period = map(int, numbers)
    return [-(-quota // period)]
