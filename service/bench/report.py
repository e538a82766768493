"""Report: measured values and the conditions that they depend on; kept as JSON to compare with later."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, field
from json import dumps
from pathlib import Path

from service import __version__
from service.evaluation.hardware import num_threads, torch_version

# Times of two reports that differ in one of these say nothing about the code.
DECISIVE = ("hardware", "num_cores", "device", "num_threads", "model", "weights", "precision", "size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """`others_load`: the load average before the measurement, 0 on a quiet machine."""

    atelier: str
    torch: str
    python: str
    hardware: str
    num_cores: int
    device: str
    num_threads: int
    model: str
    weights: str  # "random" or the weights' fingerprint
    precision: str
    size: str
    seed: int
    num_warm_up: int
    num_repeats: int
    others_load: float | None

    def describe(self) -> str:
        """Three lines for the head of a report."""
        load = "" if self.others_load is None else f"; load of the machine beforehand {self.others_load:.1f}"
        return "\n".join(
            (
                f"atelier {self.atelier}, torch {self.torch}, Python {self.python}",
                f"{self.hardware}, {self.num_cores} cores; {self.device}, {self.num_threads} threads{load}",
                f"model {self.model} ({self.weights} weights, {self.precision}), size {self.size}, "
                f"seed {self.seed}, {self.num_repeats} repetitions after {self.num_warm_up} uncounted",
            )
        )

    def differences(self, other: Conditions) -> list[str]:
        """What forbids a comparison: `model (nano here, infinity-2b there)`."""
        return [
            f"{name.removeprefix('num_')} ({getattr(self, name)} here, {getattr(other, name)} there)"
            for name in DECISIVE
            if getattr(self, name) != getattr(other, name)
        ]


def conditions(
    *,
    hardware: str,
    device: str,
    model: str,
    weights: str,
    precision: str,
    size: str,
    seed: int,
    num_warm_up: int,
    num_repeats: int,
) -> Conditions:
    """Those of this process on this machine."""
    return Conditions(
        atelier=__version__,
        torch=torch_version(),
        python=platform.python_version(),
        hardware=hardware,
        num_cores=os.cpu_count() or 1,
        device=device,
        num_threads=num_threads(),
        model=model,
        weights=weights,
        precision=precision,
        size=size,
        seed=seed,
        num_warm_up=num_warm_up,
        num_repeats=num_repeats,
        others_load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


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
    from pydantic import TypeAdapter, ValidationError  # here: `make gpu` writes reports where there is none

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
