"""Reports to compare, without measuring anything."""

from __future__ import annotations

from dataclasses import replace

from service.bench.report import Conditions, Report, Row, Table, conditions


def report(seconds: float = 0.5, kind: str = "latency", **changes: object) -> Report:
    """One row that took so many seconds, measured here on tiny, but for the changed conditions."""
    row = Row("stylised image", {"median_seconds": seconds, "p99_seconds": None, "num_samples": 3})
    return Report(kind, replace(here(), **changes), (Table("requests", (row,)),), ("A note.",))  # type: ignore[arg-type]


def here() -> Conditions:
    return conditions(
        hardware="a processor",
        device="cpu",
        model="tiny",
        weights="random",
        precision="fp32",
        size="64x64",
        seed=5,
        num_warm_up=1,
        num_repeats=3,
    )
