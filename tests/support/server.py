"""A real server on a real socket, in a thread of the test's own interpreter."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from service.app import create_app
from service.lifecycle import SILENT, Progress, Service
from service.model.engine.generator import Generator
from service.server import DrainingServer, server_config
from service.settings import Settings
from service.tracing import Tracing

PATIENCE_SECONDS = 60


class _Server(DrainingServer):
    """Ours, with an event for the moment from which it listens."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config, close=service.close, drain_seconds=service.settings.drain_seconds)
        self.listens = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.listens.set()


@dataclass(frozen=True)
class Running:
    """A server that accepts connections; `service` lives on its event loop, in another thread."""

    service: Service
    host: str
    port: int
    loop: asyncio.AbstractEventLoop
    server: uvicorn.Server

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)

    def end(self) -> None:
        """What SIGTERM does; `serving` waits for the end."""
        self.server.should_exit = True

    def wait_until_settled(self) -> None:
        """Return once the service is ready, or has failed to become so."""
        settled = asyncio.run_coroutine_threadsafe(self.service.settled.wait(), self.loop)
        settled.result(PATIENCE_SECONDS)


@contextmanager
def serving(
    settings: Settings,
    generator: Generator | None = None,
    progress: Progress = SILENT,
    tracing: Tracing | None = None,
) -> Iterator[Running]:
    """Serves on a free port; at the end it stops as after SIGTERM and everything it started has ended."""
    app = create_app(settings, generator, progress=progress, tracing=tracing)
    config = server_config(app, settings, host=settings.host, port=0, loop="asyncio")
    server = _Server(config, app.state.service)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        assert server.listens.wait(PATIENCE_SECONDS), "the server does not listen"
        assert server.loop is not None
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield Running(app.state.service, host, port, server.loop, server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "the server does not stop"


@contextmanager
def ready_server(
    folder: Path, generator: Generator, **settings: Any
) -> Iterator[tuple[Running, httpx.Client]]:
    """A server that is ready, with its data in `folder`, and a client of it."""
    with serving(Settings(data_dir=folder, **settings), generator) as server, server.client() as client:
        server.wait_until_settled()
        yield server, client
