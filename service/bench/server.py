"""A real server process for the bench: `atelier serve` with a model of the bench's choice, random ones too.

Run as `python -m service.bench.server`, with a `Plan` on a line of standard input; it ends with that.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from json import dumps, loads
from pathlib import Path
from typing import Any

import httpx2
from pydantic import TypeAdapter

from service.settings import PREFIX, prepare_torch, read_settings

PATIENCE_SECONDS = 3600  # a large model takes minutes to load


@dataclass(frozen=True, slots=True)
class Plan:
    """What the process serves, and where it writes the times of its steps at the end, if anywhere."""

    wanted: dict[str, Any]  # a subject.Wanted
    threads: int | None
    data_dir: str
    num_sizes: int = 1  # how many of the model's sizes are warmed up and served, the wanted one first
    steps_file: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A server process that is ready."""

    url: str

    def client(self) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE_SECONDS, limits=limits)


@contextmanager
def running(plan: Plan) -> Iterator[Server]:
    """The server from ready to ended by SIGTERM. ValueError with its last words if it does not start."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.bench.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # The settings of a service that is configured here are not the bench's.
            env={name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(dumps(asdict(plan)) + "\n")
            process.stdin.flush()
            yield Server(_url(process.stdout, log))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _url(output: Any, log: Any) -> str:
    for line in output:
        if found := re.search(r"ready on (http://\S+)", line):
            return found[1]
    log.seek(0)
    last = log.read().strip().splitlines()[-1:]
    raise ValueError(f"The server did not start: {''.join(last) or 'it said nothing'}")


def main() -> int:
    """The process itself: the exit status of the server."""
    plan = Plan(**loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings = read_settings(data_dir=Path(plan.data_dir), port=0, threads=plan.threads)
    prepare_torch(settings)
    from service.bench.steps import WatchedGenerator
    from service.bench.subject import Wanted, load_subject
    from service.server import run_server

    try:
        subject = load_subject(TypeAdapter(Wanted).validate_python(plan.wanted))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    generator = WatchedGenerator(subject, plan.num_sizes)
    try:
        return run_server(settings, generator)  # SIGTERM ends it by SystemExit
    finally:
        if plan.steps_file is not None:
            Path(plan.steps_file).write_text(dumps([asdict(batch) for batch in generator.batches]))


def _end_with_parent() -> None:
    # A bench that is killed cannot end its server. Not by sys.stdin: its lock would outlive the interpreter.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
