"""A report against an earlier one: ratios of what both have measured."""

from __future__ import annotations

from pathlib import Path

from service.bench.rendering import aligned, heading
from service.bench.report import Report, Table, Value

_COMPARED = (
    "median_seconds", "p95_seconds", "p99_seconds", "cpu_seconds", "median_ratio", "images_per_second",
    "counted_flops", "peak_bytes",
)  # fmt: skip


def require_comparable(now: Report, then: Report, file: Path) -> None:
    """ValueError, a sentence that names what differs, when ratios between the two would say nothing."""
    if now.kind != then.kind:
        raise ValueError(
            f"{file} is a report of `bench {then.kind}`: it compares with such, not with {now.kind}."
        )
    if differences := now.conditions.differences(then.conditions):
        raise ValueError(
            f"{file} was measured under other conditions, so ratios would say nothing about the code: "
            f"{'; '.join(differences)}. Measure again under the same ones, or give --force."
        )


def compare(now: Report, then: Report) -> str:
    """Tables of now / then, for the rows that both have; under 1 is less time, or less of what is counted."""
    before = {table.title: table for table in then.tables}
    parts = [_table(table, before[table.title]) for table in now.tables if table.title in before]
    head = f"now / then, where then is atelier {then.conditions.atelier} on {then.conditions.hardware}"
    return "\n\n".join([head, *(part for part in parts if part)])


def _table(now: Table, then: Table) -> str:
    before = {row.name: row.values for row in then.rows}
    ratios = {row.name: _ratios(row.values, before[row.name]) for row in now.rows if row.name in before}
    names = [name for name in _COMPARED if any(name in ratio for ratio in ratios.values())]
    if not names:
        return ""
    lines = [[now.title, *map(heading, names)]]
    lines += [
        [row, *(f"{ratio[n]:.3f}x" if n in ratio else "-" for n in names)] for row, ratio in ratios.items()
    ]
    return aligned(lines)


def _ratios(now: dict[str, Value], then: dict[str, Value]) -> dict[str, float]:
    pairs = ((name, now.get(name), then.get(name)) for name in _COMPARED)
    return {
        name: new / old
        for name, new, old in pairs
        if isinstance(new, int | float) and isinstance(old, int | float) and old
    }
