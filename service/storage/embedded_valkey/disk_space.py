"""Room on the disk: how the embedded store says that there is none, and whether there is some again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Valkey ends when it cannot force a write to the disk: that write then counts as never made.
_LAST_WORDS = "Can't recover from AOF write error"
PROBE_BYTES = 2**20
LOOK_SECONDS = 5.0  # between two looks for room


def ran_out(log_tail: str) -> bool:
    """Whether the store ended because its disk took no more."""
    return _LAST_WORDS in log_tail


def has_room(folder: Path) -> bool:
    """Whether a megabyte can be forced to the disk there. Tried: free blocks tell nothing of quotas."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError:
        return False
    return True
