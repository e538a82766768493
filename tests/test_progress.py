"""Progress is for terminals."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from tests.process import ROOT

LOAD = """
from service.progress import bars
with bars() as watch:
    for done in range(0, 10**9 + 1, 10**8):
        watch("weights.pth", done, 10**9)
        watch("small.json", 10, 10)
print("done")
"""


def test_a_terminal_gets_a_bar_for_what_is_large() -> None:
    reading, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", LOAD], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=terminal
    ) as run:
        os.close(terminal)
        seen = b""
        while chunk := _read(reading):
            seen += chunk
    os.close(reading)
    assert run.returncode == 0
    assert b"weights.pth" in seen
    assert b"1.0/1.0 GB" in seen
    assert b"small.json" not in seen


def test_a_log_gets_nothing() -> None:
    run = subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("done\n", "")


def _read(reading: int) -> bytes:
    try:
        return os.read(reading, 65536)
    except OSError:  # how Linux says that the other end was closed
        return b""
