"""A report as text: tables whose units follow from the values' names, and ratios to an earlier report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.bench.report import Report, Table, Value

_HEADINGS = {
    "median_seconds": "median",
    "low_seconds": "quarter",
    "high_seconds": "3/4",
    "median_ratio": "ratio",
    "low_ratio": "quarter",
    "high_ratio": "3/4",
    "cpu_ratio": "CPU ratio",
    "cpu_seconds": "CPU time",
    "num_samples": "of",
    "of_its_time_share": "for",
    "counted_flops": "operations",
    "least_flops": "least",
    "counted_bytes": "traffic",
    "peak_flops_share": "of product peak",
    "peak_copy_share": "of copy peak",
}
_UNITS = ("_seconds", "_ratio", "_share", "_flops", "_bytes")
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def render(report: Report) -> str:
    """All of it: on what, the tables, the notes."""
    parts = [f"bench {report.kind}\n{report.conditions.describe()}"]
    parts += [render_table(table) for table in report.tables]
    if report.notes:
        parts.append("\n".join(report.notes))
    return "\n\n".join(parts)


def render_table(table: Table) -> str:
    """A column that no row has a value for is left out."""
    names = dict.fromkeys(name for row in table.rows for name in row.values)
    shown = [name for name in names if any(row.values.get(name) is not None for row in table.rows)]
    lines = [[table.title, *(heading(name) for name in shown)]]
    lines += [[row.name, *(format_value(name, row.values.get(name)) for name in shown)] for row in table.rows]
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def heading(name: str) -> str:
    if name in _HEADINGS:
        return _HEADINGS[name]
    for unit in _UNITS:
        name = name.removesuffix(unit)
    return name.removeprefix("num_").replace("_per_second", "/s").replace("_", " ")


def format_value(name: str, value: Value) -> str:
    """`0.0123` of `median_seconds` as `12.3 ms`; a missing value as `-`."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name.endswith("_ratio"):
        return f"{value:.2f}x"
    if name.endswith("_share"):
        return f"{100 * value:.1f} %"
    if name.endswith("_seconds"):
        return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    if name.endswith(("_flops", "_bytes", "_flops_per_second", "_bytes_per_second")):
        return _scaled(value)
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _scaled(value: float) -> str:
    unit, prefix = next((scale for scale in _PREFIXES if abs(value) >= scale[0]), _PREFIXES[-1])
    return f"{value / unit:.3g} {prefix}".rstrip()


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
