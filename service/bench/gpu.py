"""`make gpu`: everything that must be seen on a GPU, in one command with a time limit, cheapest part first.

Needs torch, transformers, numpy, Pillow and safetensors, none of Atelier's other dependencies, no network and
no checkpoint. `--device cpu --model nano` runs the same lines on a CPU.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from service.bench.gpu_kernels import measure_kernels
from service.bench.report import Conditions, Findings, Row, Table, Value, conditions
from service.bench.subject import Subject, SubjectOptions, load_subject
from service.bench.tables import render_table
from service.bench.throughput import Bounded, measure_throughput
from service.evaluation.checks import Form
from service.evaluation.hardware import forget_peak, hardware_name, measure_peaks, peak_bytes
from service.evaluation.verify import verify
from service.evaluation.verify_half import FLOORS, overall, verify_half
from service.model.checkpoints.options import LoadOptions
from service.model.checkpoints.registry import device_of, require_compiler

BATCHES = (1, 2, 4)
_NUM_KERNELS = 20  # in the profile


class OutOfTime(BaseException):
    """The time limit passed. No `except Exception` on the way stops it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a part found, and whether it is as it should be."""

    findings: Findings
    is_right: bool = True


@dataclass
class Part:
    """One part of the report: `not run` until it is, then `passed`, `failed` or `out of time`."""

    name: str
    status: str = "not run"
    seconds: float = 0.0
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Machine:
    """What the parts run on, and with: the model is made when the first part asks for it."""

    device: torch.device
    model: str
    golden: Path
    num_repeats: int
    images: dict[str, np.ndarray] = field(default_factory=dict)  # by form, of the same spec

    @cached_property
    def sets(self) -> list[Path]:
        found = sorted(file.parent for file in self.golden.glob("*/config.json"))
        if not found:
            raise ValueError(f"{self.golden} holds no golden sets: name their folder with --golden")
        return found

    @cached_property
    def subject(self) -> Subject:
        eager = LoadOptions(compile=False)  # the last part compiles it
        return load_subject(
            SubjectOptions(model=self.model, is_random=True, device=str(self.device), choices=eager)
        )

    def conditions(self) -> Conditions:
        backbone, size = self.subject.backbone, self.subject.size
        return conditions(
            hardware=hardware_name(self.device),
            device=self.device.type,
            model=backbone.name,
            weights=self.subject.weights,
            precision=backbone.precision,
            size=str(size),
            seed=self.subject.seed,
            num_warm_up=1,
            num_repeats=self.num_repeats,
        )


def golden(machine: Machine) -> Outcome:
    """The golden sets in fp32 without TF32, by the fused kernels, to the tolerances of `atelier verify`."""
    rows, is_right = [], True
    for folder in machine.sets:
        checks = verify(folder, Form(machine.device, is_fused=True))
        missed = [check.tensor for check in checks if not check.passed]
        bounded = [check.difference / check.tolerance for check in checks if check.tolerance]
        values: dict[str, Value] = {"num_tensors": len(checks), "num_missed": len(missed)}
        values |= {"largest_share": max(bounded), "missed": ", ".join(missed[:5]) or None}
        rows.append(Row(folder.name, values))
        is_right = is_right and not missed
    title = "golden sets in fp32; the largest difference's share of its tolerance"
    return Outcome(Findings((Table(title, tuple(rows)),)), is_right)


def golden_bf16(machine: Machine) -> Outcome:
    """How closely bf16 agrees with fp32 on the same sets, both on this device."""
    rows, is_right = [], True
    for folder in machine.sets:
        if (folder / "switti.safetensors").is_file():
            continue
        report = verify_half(folder, Form(machine.device, is_fused=True))
        values: dict[str, Value] = {"bits_share": overall(report.runs) if report.runs else None}
        values |= {f"{name} dB": decibels for name, decibels in report.decibels.items()}
        rows.append(Row(folder.name, values))
        is_right = is_right and report.passed
    return Outcome(Findings((Table("bf16 against fp32", tuple(rows)),), (FLOORS,)), is_right)


def kernels(machine: Machine) -> Outcome:
    """Our own kernels beside their references, and how long they take beside torch's."""
    tables, is_right = measure_kernels(machine.device)
    return Outcome(Findings(tables), is_right)


def memory(machine: Machine) -> Outcome:
    """The peak of a batch beside the weights, and what the formula says; never more, on a GPU."""
    subject, rows, is_right = machine.subject, [], True
    schedule = subject.backbone.schedules[subject.size]
    subject.generator.generate([subject.spec(0, style=0)])
    for number in BATCHES:
        weights = torch.cuda.memory_allocated(machine.device) if machine.device.type == "cuda" else 0
        forget_peak(machine.device)
        subject.generator.generate([subject.spec(8 * number + index, style=index) for index in range(number)])
        peak, formula = peak_bytes(machine.device), subject.backbone.batch_bytes(schedule, number)
        measured = None if peak is None else peak - weights
        ratio = None if measured is None else measured / formula
        rows.append(
            Row(
                f"{number} stylised images",
                {"measured_bytes": measured, "formula_bytes": formula, "measured_ratio": ratio},
            )
        )
        is_right = is_right and (ratio is None or ratio <= 1)
    notes = () if machine.device.type == "cuda" else ("Not measured: this is no GPU.",)
    return Outcome(Findings((Table("memory of a batch", tuple(rows)),), notes), is_right)


def throughput(machine: Machine) -> Outcome:
    """Batches of 1, 2 and 4 images and styles of one prompt: times, share of peak, peak memory."""
    subject = machine.subject
    machine.images["eager"] = subject.generator.generate([subject.spec(0, style=0)])[0].image
    return Outcome(_timed(machine))


def profile(machine: Machine) -> Outcome:
    """Where the time of one stylised image goes, kernel by kernel."""
    subject, is_gpu = machine.subject, machine.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    if is_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    spec = subject.spec(0, style=0)
    with torch.profiler.profile(activities=activities) as profiled:
        subject.generator.generate([spec])
    attribute = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    times = {event.key: (getattr(event, attribute), event.count) for event in profiled.key_averages()}
    total = sum(microseconds for microseconds, _ in times.values()) or 1.0
    longest = sorted(times, key=lambda key: -times[key][0])[:_NUM_KERNELS]
    rows = [
        Row(
            key[:60],
            {
                "total_seconds": times[key][0] / 1e6,
                "num_calls": times[key][1],
                "time_share": times[key][0] / total,
            },
        )
        for key in longest
    ]
    return Outcome(Findings((Table("kernels of one stylised image", tuple(rows)),)))


def compiled(machine: Machine) -> Outcome:
    """The same model compiled, in place: its image beside the eager one, and its times."""
    require_compiler()
    subject = machine.subject
    spec = subject.spec(0, style=0)
    eager = machine.images.get("eager")
    if eager is None:
        eager = subject.generator.generate([spec])[0].image
    subject.backbone.compile()
    began = time.perf_counter()
    image = subject.generator.generate([spec])[0].image
    first_seconds = time.perf_counter() - began
    values = _beside(image, eager) | {"first_image_seconds": first_seconds}
    timed = _timed(machine)
    pixels = Table("compiled beside eager", (Row("pixels", values),))
    return Outcome(Findings((pixels, *timed.tables), timed.notes))


def graphs(machine: Machine) -> Outcome:
    """The compiled model with CUDA graphs: its image, twice, is the one without to the bit; and its times."""
    if machine.device.type != "cuda":
        return Outcome(Findings((), ("Not run: this is no GPU.",)))
    subject = machine.subject
    backbone = subject.backbone
    if not backbone.is_compiled:
        require_compiler()
        backbone.compile()
    spec = subject.spec(0, style=0)
    without = subject.generator.generate([spec])[0].image
    backbone.steps.capture()
    images = {name: subject.generator.generate([spec])[0].image for name in ("captured", "replayed")}
    rows = tuple(Row(name, _beside(image, without)) for name, image in images.items())
    pixels = Table(f"{backbone.steps.num_graphs} graphs beside none", rows)
    is_right = backbone.steps.num_graphs > 0 and all(
        np.array_equal(image, without) for image in images.values()
    )
    timed = _timed(machine)
    return Outcome(Findings((pixels, *timed.tables), timed.notes), is_right)


def _timed(machine: Machine) -> Findings:
    """Times of the batches, with the model as it is now."""
    subject = machine.subject
    within = Bounded(
        num_repeats=machine.num_repeats, num_warm_up=1, most_seconds=float("inf"), numbers=BATCHES
    )
    peaks = measure_peaks(machine.device, subject.backbone.dtype)
    return measure_throughput(subject, (subject.size,), within, peaks)


def _beside(image: np.ndarray, other: np.ndarray) -> dict[str, Value]:
    difference = np.abs(image.astype(int) - other.astype(int))
    return {"equal_share": float((difference == 0).mean()), "largest_of_255": int(difference.max())}


# In the order in which they run: dearest last.
PARTS: Mapping[str, Callable[[Machine], Outcome]] = {
    "golden": golden,
    "golden-bf16": golden_bf16,
    "kernels": kernels,
    "memory": memory,
    "throughput": throughput,
    "profile": profile,
    "compiled": compiled,
    "graphs": graphs,
}


def run(
    machine: Machine, names: Sequence[str], seconds: float, write: Callable[[list[Part]], None]
) -> list[Part]:
    """Run the named parts within so many seconds; `write` is called with what there is after each."""
    ends = time.monotonic() + seconds
    parts = [Part(name) for name in names]
    for part in parts:
        began = time.monotonic()
        if began < ends:
            _run_part(part, machine, ends - began)
            part.seconds = time.monotonic() - began
        else:
            part.notes = ("Not run: the time was up.",)
        write(parts)
        print(f"{part.name}: {part.status}, {part.seconds:.1f} s", flush=True)
    return parts


def _run_part(part: Part, machine: Machine, seconds: float) -> None:
    ends = time.monotonic() + seconds
    try:
        with _time_limit(seconds):
            outcome = PARTS[part.name](machine)
    except OutOfTime:
        part.status = "out of time"
    except Exception as error:  # one part's failure must not cost the others: the machine is lent for minutes
        # Compiled code that is interrupted may raise an error of its own in place of OutOfTime.
        part.status = "failed" if time.monotonic() < ends else "out of time"
        part.notes = (f"{type(error).__name__}: {error}", traceback.format_exc())
    else:
        part.status = "passed" if outcome.is_right else "failed"
        part.tables, part.notes = outcome.findings.tables, outcome.findings.notes


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def markdown(head: str, parts: Sequence[Part]) -> str:
    lines = ["# Atelier on a GPU", "", head, "", "| part | result | seconds |", "|---|---|---|"]
    lines += [f"| {part.name} | {part.status} | {part.seconds:.1f} |" for part in parts]
    for part in parts:
        tables = "\n\n".join(render_table(table) for table in part.tables)
        lines += ["", f"## {part.name}: {part.status}", ""]
        lines += ["```text", tables, "```", ""] if tables else []
        lines += [note for note in part.notes if "Traceback" not in note]
    return "\n".join(lines) + "\n"


def describe(device: torch.device) -> str:
    """The machine and the versions, in one line."""
    memory_gb = ""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        memory_gb = f", {properties.total_memory / 1e9:.0f} GB, capability {capability}"
    not_cuda = "" if device.type == "cuda" else " **Not run on CUDA.**"
    return (
        f"{hardware_name(device)}{memory_gb}; torch {torch.__version__}, CUDA {torch.version.cuda}.{not_cuda}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--only", help=f"parts, separated by commas: {', '.join(PARTS)}")
    parser.add_argument("--model", default="infinity-2b", help="whose shape to measure, with random weights")
    parser.add_argument("--seconds", type=float, default=500.0, help="after which it writes what it has")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement")
    parser.add_argument("--golden", type=Path, default=Path("tests/golden"), help="folder of the golden sets")
    parser.add_argument(
        "--out", type=Path, default=Path("build/gpu"), help="folder for report.json and report.md"
    )
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    try:
        device = device_of(options.device)
    except ValueError as error:
        parser.error(str(error))
    machine = Machine(device, options.model, options.golden, options.repeats)
    options.out.mkdir(parents=True, exist_ok=True)

    def write(parts: list[Part]) -> None:
        head = describe(device)
        measured = asdict(machine.conditions()) if "subject" in vars(machine) else None
        content = {"machine": head, "conditions": measured, "parts": [asdict(part) for part in parts]}
        (options.out / "report.json").write_text(json.dumps(content, indent=1) + "\n")
        (options.out / "report.md").write_text(markdown(head, parts))

    ordered = [name for name in PARTS if name in names]
    parts = run(machine, ordered, options.seconds, write)
    print(f"{options.out}/report.md and report.json are written")
    return 0 if all(part.status == "passed" for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
