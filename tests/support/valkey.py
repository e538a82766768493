"""A real store for tests: the embedded server in a folder of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.storage.embedded_valkey.server import EmbeddedValkey


@asynccontextmanager
async def running_server(folder: Path) -> AsyncIterator[EmbeddedValkey]:
    """A server that answers, on `folder`; stopped afterwards, whatever the test did to it."""
    server = EmbeddedValkey(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def size_of_log(server: EmbeddedValkey) -> int:
    """Of what was written since the last rewrite."""
    (log,) = server.log_folder.glob("*.incr.aof")
    return log.stat().st_size
