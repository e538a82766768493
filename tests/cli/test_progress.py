"""Progress bars appear on terminals only."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from tests.support.process import ROOT

LOAD = """
from service.cli.progress import bars
with bars() as on_progress:
    for done in range(0, 10**9 + 1, 10**8):
        on_progress("weights.pth", done, 10**9)
        on_progress("small.json", 10, 10)
print("done")
"""

COUNT = """
from service.cli.progress import counter
with counter(3, "warming up") as count:
    for _ in range(3):
        count()
print("done")
"""


def test_a_terminal_gets_a_bar_for_what_is_large() -> None:
    seen = seen_on_a_terminal(LOAD)
    assert b"weights.pth" in seen
    assert b"1.0/1.0 GB" in seen
    assert b"small.json" not in seen


def test_a_terminal_sees_how_many_sizes_are_warm() -> None:
    seen = seen_on_a_terminal(COUNT)
    assert b"warming up" in seen
    assert b"3/3" in seen


def test_a_log_gets_nothing() -> None:
    for script in (LOAD, COUNT):
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert (run.stdout, run.stderr) == ("done\n", "")


def seen_on_a_terminal(script: str) -> bytes:
    reading, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=terminal
    ) as run:
        os.close(terminal)
        seen = b""
        while chunk := _read(reading):
            seen += chunk
    os.close(reading)
    assert run.returncode == 0
    return seen


def _read(reading: int) -> bytes:
    try:
        return os.read(reading, 65536)
    except OSError:  # how Linux says that the other end was closed
        return b""
