"""Numbers that the paper prints: data with a source, shown beside measured ones and never among them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "published.json"


@dataclass(frozen=True, slots=True)
class Printed:
    """One row of a table; None where the number was not at hand."""

    method: str
    txt: float | None
    img: float | None
    harm: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Published:
    source: str
    num_prompts: int
    num_styles: int
    tables: dict[str, tuple[Printed, ...]]  # by recipe


@cache
def published() -> Published:
    stored = json.loads(FILE.read_text())
    tables = {
        name: tuple(Printed(**row) for row in rows) for name, rows in stored.items() if isinstance(rows, list)
    }
    return Published(stored["source"], stored["num_prompts"], stored["num_styles"], tables)
