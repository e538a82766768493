"""The stores that a soak test kills: a service's own embedded server, and one that replicas share."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import psutil
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as NotConnected

from service.storage.embedded_valkey.files import find_binary

# Appends as the embedded server does: what was confirmed survives kill -9.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction")


class SoakStore(Protocol):
    url: str

    async def kill(self) -> None:
        """Kill -9; returns once it is dead."""

    async def revive(self) -> None:
        """Returns once it answers again."""


class OwnStore:
    """The embedded server of a service process, which restarts it by itself."""

    def __init__(self, data_dir: Path, service_pid: int) -> None:
        self.url = f"unix://{data_dir / 'store' / 'store.sock'}"
        self._service = psutil.Process(service_pid)

    async def kill(self) -> None:
        (server,) = [child for child in self._service.children() if "valkey" in child.name()]
        server.kill()
        await asyncio.to_thread(server.wait)

    async def revive(self) -> None:
        await _until_it_answers(self.url)


class SharedStore:
    """A Valkey on a TCP port of its own, for any number of replicas."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}"
        self._command = (*map(str, (find_binary(), "--port", port, "--dir", folder)), *DURABLE)
        self._process: asyncio.subprocess.Process | None = None

    async def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def revive(self) -> None:
        if self._process is None or self._process.returncode is not None:
            nowhere = asyncio.subprocess.DEVNULL
            self._process = await asyncio.create_subprocess_exec(*self._command, stdout=nowhere)
        await _until_it_answers(self.url)

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, port: int) -> AsyncIterator[SharedStore]:
        store = cls(folder, port)
        await store.revive()
        try:
            yield store
        finally:
            await store.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def _until_it_answers(url: str) -> None:
    retry = Retry(ConstantBackoff(0.05), 600)
    async with Redis.from_url(url, retry=retry, retry_on_error=[NotConnected, FileNotFoundError]) as redis:
        await redis.ping()
