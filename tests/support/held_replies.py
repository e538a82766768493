"""A socket in front of a store, which holds back the reply to one request until the test lets it through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from service.storage.client import connect
from service.storage.embedded_valkey.server import EmbeddedValkey

CHUNK_BYTES = 1 << 20


class HeldReplies:
    """Holds the replies on a connection once `marker` was sent on it; `held` is set when the first one is."""

    def __init__(self, store: Path, marker: bytes) -> None:
        self.held, self.gate = asyncio.Event(), asyncio.Event()
        self._store = store
        self._marker = marker

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_unix_connection(self._store)
        is_marked = asyncio.Event()

        async def pass_requests() -> None:
            while chunk := await reader.read(CHUNK_BYTES):
                if self._marker in chunk:
                    is_marked.set()
                store_writer.write(chunk)
            store_writer.close()

        async def pass_replies() -> None:
            while chunk := await store_reader.read(CHUNK_BYTES):
                if is_marked.is_set():
                    self.held.set()
                    await self.gate.wait()
                writer.write(chunk)
            writer.close()

        await asyncio.gather(pass_requests(), pass_replies(), return_exceptions=True)


@asynccontextmanager
async def held_replies(
    server: EmbeddedValkey, folder: Path, marker: bytes
) -> AsyncIterator[tuple[HeldReplies, Redis]]:
    """What holds them, and a client whose connections it is in front of."""
    replies = HeldReplies(server.folder / "store.sock", marker)
    async with (
        await asyncio.start_unix_server(replies.accept, folder / "held.sock"),
        connect(f"unix://{folder / 'held.sock'}") as redis,
    ):
        try:
            yield replies, redis
        finally:
            replies.gate.set()
