"""Report: what was measured, on what. It is printed as tables, and kept as JSON to compare with later."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from json import dumps
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from service.bench.conditions import Conditions

# What a name ends in is its unit: _seconds, _ratio, _share, _flops, _bytes, _per_second; num_ begins counts.
Value = float | int | str | None


@dataclass(frozen=True, slots=True)
class Row:
    """Something measured, and its values by name."""

    name: str
    values: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """What one kind of measurement found."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    kind: str
    conditions: Conditions
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        return dumps(asdict(self), indent=1) + "\n"


def read_report(file: Path) -> Report:
    """A report that `--json` wrote. ValueError with a sentence when the file holds none."""
    try:
        return TypeAdapter(Report).validate_json(file.read_bytes(), extra="forbid")
    except OSError as error:
        raise ValueError(f"The report {file} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{file} is no report of this version of `atelier bench --json`: {where or 'the file'}: "
            f"{first['msg']}."
        ) from error
