"""The memory of a process as Linux counts it: what torch and its libraries take, copies included."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.support.process import ROOT

_SELF = Path("/proc/self")


def measured_by(module: str) -> dict[str, tuple[int, int]]:
    """What `module`, which calls `print_measured`, prints in a process without any other test's memory."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        # As at the true sizes, where no tensor is small enough for the heap, in which memory falls to pieces.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {name: (estimate, peak) for name, (estimate, peak) in json.loads(done.stdout).items()}


def print_measured(measure: Callable[[str], tuple[int, int]], names: Iterable[str]) -> None:
    """The estimate and the peak of each, in bytes: in a process of its own, forked after the imports."""
    context = multiprocessing.get_context("fork")
    found = {}
    for name in names:
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=lambda name, end: end.send(measure(name)), args=(name, sending))
        process.start()
        sending.close()
        found[name] = receiving.recv()
        process.join()
    print(json.dumps(found))


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
