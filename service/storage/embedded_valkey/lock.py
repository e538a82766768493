"""A lock on a file that the kernel lets go when its last holder dies, however it dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


class FileLock:
    """An exclusive `flock` with a note in the file for whoever finds it held.

    The lock belongs to the open file, so a child that inherits `descriptor` holds it as well, and keeps
    holding it after this process has let go: who holds it is who still lives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None

    def take(self) -> bool:
        """Whether the lock is ours now; never waits. OSError when the file cannot be opened or locked."""
        if sys.platform == "win32":
            raise OSError("file locks of this kind need a POSIX system")
        if self.descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self.descriptor = descriptor
        self.write_note("")  # the last holder's would mislead
        return True

    def let_go(self) -> None:
        """Close our hold; a child that inherited it keeps the lock."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def write_note(self, note: str) -> None:
        """Only while the lock is ours."""
        assert self.descriptor is not None, "the note belongs to the holder"
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, os.fsencode(note), 0)

    def read_note(self) -> str:
        """What the holder wrote; empty when it has written nothing."""
        return os.fsdecode(self.path.read_bytes())
