"""A small disk of its own for a server process: a real file system, which only that process has mounted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import Serving, command, started

MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def has_small_disks() -> bool:
    """Whether this user may mount a file system in a namespace of a process."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    attempt = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", "1m", "/mnt", "true"]
    return subprocess.run(attempt, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class SmallDisk:
    """Of a running server, seen from outside through its process."""

    serving: Serving
    folder: Path

    @property
    def num_free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def fill(self) -> None:
        """With a file of another's, to the last byte."""
        with (self.folder / "ballast").open("ab", buffering=0) as ballast:
            try:
                while ballast.write(bytes(1 << 16)):
                    pass
            except OSError:
                pass

    def clear(self) -> None:
        (self.folder / "ballast").unlink()


@contextmanager
def serving_on_small_disk(
    mount_point: Path, *arguments: str | Path, num_bytes: int, log: Path
) -> Iterator[SmallDisk]:
    """`atelier serve` whose data folder is on a disk of so many bytes."""
    words = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", str(num_bytes), str(mount_point)]
    serve = command("serve", "--port", "0", "--data-dir", mount_point / "data", *arguments)
    with started([*words, *serve], log=log) as serving:
        yield SmallDisk(serving, Path(f"/proc/{serving.process.pid}/root{mount_point}"))
