"""run_server: one server process, which drains before it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn

from service.app import create_app
from service.http.protocol import ConnectionLimits, bounded_protocol
from service.lifecycle import SILENT, CannotStart, Progress, Service
from service.logs import configure_logs
from service.model.engine.generator import Generator
from service.settings import Settings
from service.storage.embedded_valkey.files import EmbeddedValkeyError

if TYPE_CHECKING:
    from fastapi import FastAPI

if sys.platform != "win32":
    import resource

# File descriptors for logs, the store's connections, uploads on their way to disk, and libraries.
OWN_DESCRIPTORS = 96
# Connections that may wait to be accepted: bursts are refused by us, with a reason, not by the kernel.
BACKLOG = 2048
# How soon a second signal, to end at once, is noticed while draining.
SIGNAL_POLL_SECONDS = 0.1
START = """\
Atelier is ready on {url} with the model {model}. {invitation}:

  curl{key} -F image=@style.png {url}/v1/styles
  curl{key} {url}/v1/images/generations -H 'Content-Type: application/json' -H 'Accept: image/png' \
-d '{{"prompt": "a star", "style": "sty_..."}}' -o star.png
  curl {url}/metrics
"""
log = structlog.get_logger(__name__)
KEY = ' -H "Authorization: Bearer $API_KEY"'


def run_server(settings: Settings, generator: Generator | None = None, *, progress: Progress = SILENT) -> int:
    """Serve until a signal ends it, and print how to use the service once it is ready.

    Without a generator the model of the settings is loaded. Returns the exit status: 0, or 1 when the service
    could not start or its model died.
    """
    # uvicorn puts these back and raises the signal again once it has finished; this makes that a success.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(0))
    configure_logs(settings.log_format)
    try:
        app = create_app(settings, generator, progress=progress)
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        print(
            f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}. Choose another "
            "--host or --port.",
            file=sys.stderr,
        )
        return 1
    config = server_config(app, settings)
    service: Service = app.state.service
    server = DrainingServer(config, close=service.close, drain_seconds=settings.drain_seconds)
    with listener, asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        status = runner.run(_serve(server, listener, service))
    if service.failure is not None:
        print(_reason(service.failure), file=sys.stderr)  # again, as the last line: the log goes on after it
    if server.force_exit:
        os._exit(1)  # a thread in the middle of a batch, or of loading a model, would be waited for
    return status


def _reason(failure: Exception) -> str:
    if isinstance(failure, CannotStart | EmbeddedValkeyError):
        return str(failure)
    return f"The service cannot start ({type(failure).__name__}: {failure}); the log above says where."


def server_config(app: FastAPI, settings: Settings, **more: Any) -> uvicorn.Config:
    """How uvicorn serves the app. Nothing that a client sends, or does not, is waited for without bound."""
    limits = ConnectionLimits(
        max_connections=min(settings.max_connections, _most_connections()),
        max_header_bytes=settings.max_header_bytes,
        header_timeout_seconds=settings.header_timeout_seconds,
        silence_timeout_seconds=settings.silence_timeout_seconds,
    )
    service: Service = app.state.service
    return uvicorn.Config(
        app,
        http=bounded_protocol(limits, service.metrics),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
        **more,
    )


def _most_connections() -> int:
    """As many as there are file descriptors for, beside those that the service itself needs."""
    if sys.platform == "win32":
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, soft - OWN_DESCRIPTORS)


async def _serve(server: uvicorn.Server, listener: socket.socket, service: Service) -> int:
    url = _url(listener)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    settled = asyncio.create_task(service.settled.wait())
    has_died = False
    await asyncio.wait({serving, settled}, return_when=asyncio.FIRST_COMPLETED)
    if service.failure is not None:
        server.should_exit = True
    elif (ready := service.readiness.service) is not None:
        key = KEY if service.keyring.now.api_keys else ""
        invitation = "Open it in a browser, or try" if service.settings.playground else "Try"
        model = ready.images.generator.name
        print(START.format(url=url, model=model, key=key, invitation=invitation), flush=True)
        ended = asyncio.create_task(ready.ended())
        await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not serving.done() and not server.should_exit:
            log.critical("model_died", remedy="The process ends with status 1, to be started again.")
            server.should_exit = has_died = True
    await serving
    settled.cancel()
    return 0 if service.failure is None and not has_died else 1


def _listen(host: str, port: int) -> socket.socket:
    """Before anything else is started: a port that is taken ends the command at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """uvicorn stops listening at the signal; probes and load balancers could not tell that from a crash.

    This one keeps listening until the requests that it had accepted have ended, or `drain_seconds` are over:
    `/readyz` and new work get a 503 that says why. Then it ends as uvicorn does.
    """

    def __init__(self, config: uvicorn.Config, *, close: Callable[[], None], drain_seconds: float) -> None:
        super().__init__(config)
        self.close = close  # turns readiness red
        self.drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; a second one of any kind ends at once."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.close()
        accepted, until = set(self.server_state.tasks), time.monotonic() + self.drain_seconds
        while accepted and not self.force_exit and time.monotonic() < until:
            _, accepted = await asyncio.wait(accepted, timeout=SIGNAL_POLL_SECONDS)
        # uvicorn waits once more: for what is left of the time, not for all of it again.
        self.config.timeout_graceful_shutdown = max(0, round(until - time.monotonic()))
        await super().shutdown(sockets)
