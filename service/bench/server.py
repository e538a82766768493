"""The service in a process of its own, with a model of the bench's choice, random weights included.

Run as `python -m service.bench.server`, with `ServerOptions` on a line of standard input; it ends with that.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import uvicorn
from pydantic import TypeAdapter

from service.settings import PREFIX, prepare_torch, read_settings

if TYPE_CHECKING:
    from service.lifecycle import Service

PATIENCE_SECONDS = 3600  # a large model takes minutes to load
BACKLOG = 2048  # connections that may wait to be accepted, as in `atelier serve`


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the process serves; `steps_file` is where it writes the times of its steps when it ends."""

    subject: dict[str, Any]  # a subject.SubjectOptions
    threads: int | None
    data_dir: str
    num_sizes: int = 1  # how many of the model's sizes are served, the subject's own first
    steps_file: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """A server process that is ready."""

    url: str

    def client(self) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE_SECONDS, limits=limits)


@contextmanager
def running(options: ServerOptions) -> Iterator[Server]:
    """The server from ready to ended by SIGTERM. ValueError with its last log line if it does not start."""
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
            process.stdin.write(dumps(asdict(options)) + "\n")
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
    raise ValueError(f"The server did not start: {''.join(last) or 'its log is empty'}")


def main() -> int:
    """The process itself: its exit status."""
    options = ServerOptions(**loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings = read_settings(data_dir=Path(options.data_dir), port=0, threads=options.threads)
    prepare_torch(settings)
    from service.app import create_app
    from service.bench.loop import TimedGenerator
    from service.bench.subject import SubjectOptions, load_subject
    from service.logs import configure_logs

    configure_logs(settings.log_format)
    try:
        subject = load_subject(TypeAdapter(SubjectOptions).validate_python(options.subject))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    # Batches of one image, where steps are timed: those of two would take longer whatever else goes on.
    generator = TimedGenerator(subject, options.num_sizes, None if options.steps_file is None else 1)
    # uvicorn raises the signal again once it has finished; this makes it a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = create_app(settings, generator)
    config = uvicorn.Config(app, log_config=None, access_log=False)
    try:
        with (
            socket.create_server((settings.host, 0), backlog=BACKLOG) as listener,
            asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
        ):
            return runner.run(_serve(app.state.service, uvicorn.Server(config), listener))
    finally:
        if options.steps_file is not None:
            Path(options.steps_file).write_text(dumps([asdict(batch) for batch in generator.batches]))


async def _serve(service: Service, server: uvicorn.Server, listener: socket.socket) -> int:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await service.settled.wait()
    if service.failure is None:
        host, port = listener.getsockname()
        print(f"ready on http://{host}:{port}", flush=True)
    else:
        server.should_exit = True
    await serving
    return 0 if service.failure is None else 1


def _end_with_parent() -> None:
    # A bench that is killed cannot end its server. Not by sys.stdin: its lock would outlive the interpreter.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
