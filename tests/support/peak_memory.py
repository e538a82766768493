"""The memory of a process as Linux counts it: what torch and its libraries take, copies included."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_SELF = Path("/proc/self")


def resident_bytes(kind: str = "VmRSS", process: Path = _SELF) -> int:
    """VmRSS: now; VmHWM: the most so far; RssAnon and RssFile: now, without files and of them."""
    lines = (process / "status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{kind}:")).split()[1])


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that this process takes in the course of the work, above what it holds before it.

    Without the pages of files that the work is the first to read, such as weights, which are not its own.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
    before, of_files = resident_bytes(), resident_bytes("RssFile")
    (_SELF / "clear_refs").write_text("5")  # starts VmHWM anew
    work()
    return resident_bytes("VmHWM") - before - (resident_bytes("RssFile") - of_files)
