"""`fetched.json` in the models folder: what was fetched, so that a hub that changes is noticed.

A branch, and even a commit on a mirror, is whatever the hub says. What it said the first time is trusted and
written down; from then on, another checksum of the same file is refused until the user accepts it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FILE_NAME = "fetched.json"


@dataclass(frozen=True, slots=True)
class FetchedFile:
    repository: str
    commit: str
    num_bytes: int
    checksum: str  # as the hub lists it: its sha256, or of a small file its git blob's
    sha256: str | None  # None of a small file until it is there


def read_record(models_dir: Path) -> dict[str, FetchedFile]:
    """By path in the models folder; empty before the first fetch. ValueError when the file is damaged."""
    file = models_dir / FILE_NAME
    try:
        entries = json.loads(file.read_bytes())
        return {path: FetchedFile(**entry) for path, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}, which `atelier fetch` compares with the hub, cannot be read ({error}). Restore it, or "
            "remove it to trust what the hub has now."
        ) from error


def write_record(models_dir: Path, files: Mapping[str, FetchedFile]) -> None:
    file = models_dir / FILE_NAME
    unfinished = file.with_name(f".{FILE_NAME}.unfinished")
    entries = {path: asdict(entry) for path, entry in sorted(files.items())}
    with unfinished.open("w") as stream:
        stream.write(json.dumps(entries, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)
