"""The command `atelier`, run in the test's own process or on a terminal of its own."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner, Result

from service.cli.main import cli
from tests.support.process import ROOT


def atelier(*arguments: str | Path, **environment: str | None) -> Result:
    """Its exit status and output; a variable that is None is unset."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env=environment)


def on_terminal(
    command: list[str],
    answer: Callable[[bytes], bytes] = lambda seen: b"",
    **environment: str,
) -> tuple[int, bytes]:
    """Exit status and output of a process whose stdin, stdout and stderr are a terminal.

    The terminal types what `answer` returns for the output so far.
    """
    reading, terminal = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TERM_PROGRAM")}
    with subprocess.Popen(
        command, cwd=ROOT, env=clean | environment, stdin=terminal, stdout=terminal, stderr=terminal
    ) as run:
        os.close(terminal)
        seen = b""
        while chunk := _read(reading):
            seen += chunk
            os.write(reading, answer(seen))
    os.close(reading)
    return run.returncode, seen


def _read(reading: int) -> bytes:
    try:
        return os.read(reading, 65536)
    except OSError:  # how Linux says that the other end was closed
        return b""
