"""`bench throughput`: time as the work grows, over sizes, batches and styles, and what bounds each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.bench.report import Findings, Row, Table, Value
from service.bench.subject import Subject
from service.bench.timing import Samples, interleaved, ratio
from service.evaluation.flops import Count, count
from service.evaluation.hardware import Peaks, forget_peak, peak_bytes
from service.model.engine.types import ImageSpec, Timings
from service.model.schedule import Size

# A step that reaches half of a peak is bound by it; one that reaches neither waits for something else:
# launches, Python, kernels far from the peak.
REACHED = 0.5


def bound_of(count: Count, seconds: float, peaks: Peaks) -> str:
    """`operations`, `memory` or `overhead`: what the time of one step went into."""
    operations = count.flops / peaks.flops_per_second / seconds
    memory = count.bytes / peaks.bytes_per_second / seconds
    if max(operations, memory) < REACHED:
        return "overhead"
    return "operations" if operations >= memory else "memory"


def bounds(counts: Sequence[Count], seconds: Sequence[float], peaks: Peaks) -> dict[str, Value]:
    """For a row of a report: what most of the steps' time is bound by, and the rates over all of them.

    Memory's share passes 1 where caches keep what was counted as traffic.
    """
    time_of = dict.fromkeys(("operations", "memory", "overhead"), 0.0)
    for counted, second in zip(counts, seconds, strict=True):
        time_of[bound_of(counted, second, peaks)] += second
    total = sum(seconds)
    flops, num_bytes = sum(counted.flops for counted in counts), sum(counted.bytes for counted in counts)
    return {
        "bound_by": max(time_of, key=time_of.__getitem__),
        "of_its_time_share": max(time_of.values()) / total,
        "counted_flops": flops,
        "counted_bytes": num_bytes,
        "peak_flops_share": flops / total / peaks.flops_per_second,
        "peak_copy_share": num_bytes / total / peaks.bytes_per_second,
    }


NUMBERS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Growth:
    """One way for a batch to grow: `specs(number, n)` is the batch of n in a repetition."""

    name: str
    specs: Callable[[Subject, int, int], list[ImageSpec]]


def _prompts(subject: Subject, number: int, n: int) -> list[ImageSpec]:
    return [subject.spec(8 * number + index, style=index) for index in range(n)]


def _styles(subject: Subject, number: int, n: int) -> list[ImageSpec]:
    return [subject.spec(8 * number, style=index) for index in range(n)]


BATCH = Growth("images", _prompts)
STYLES = Growth("styles of one prompt", _styles)


@dataclass(eq=False)
class _Batch:
    """A number of jobs of one growth, as a work that keeps its timings."""

    subject: Subject
    growth: Growth
    n: int
    timings: list[Timings] = field(default_factory=list)
    peak_bytes: int | None = None  # of a GPU's memory

    @property
    def name(self) -> str:
        return "1 image" if self.n == 1 else f"{self.n} {self.growth.name}"

    def __call__(self, number: int) -> None:
        forget_peak(self.subject.backbone.device)
        drawings = self.subject.generator.generate(self.growth.specs(self.subject, number, self.n))
        self.timings.append(drawings[0].timings)
        self.peak_bytes = peak_bytes(self.subject.backbone.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """How much to measure. A batch that is expected to take longer than `most_seconds` is left out."""

    num_repeats: int
    num_warm_up: int
    most_seconds: float
    numbers: Sequence[int] = NUMBERS


def measure_throughput(subject: Subject, sizes: Sequence[Size], within: Bounded, peaks: Peaks) -> Findings:
    """A table a size, small to large, each with the batches that fit the time."""
    tables: list[Table] = []
    notes = [
        f"Peaks measured in this run: {peaks.flops_per_second / 1e9:.4g} GFLOP/s in a matrix product, "
        f"{peaks.bytes_per_second / 1e9:.4g} GB/s in a copy. A step that reaches half of one is bound by it."
    ]
    cost = 0.0  # seconds a token of an image alone, at the size before
    for size in sizes:
        at = subject.at(size)
        num_tokens = at.backbone.schedules[size].num_tokens
        if cost * num_tokens > within.most_seconds:
            notes.append(f"Left out: {size}, where one image takes more than {cost * num_tokens:.0f} s.")
            continue
        alone = _seconds_alone(at)
        cost = alone / num_tokens
        batches, left_out = _chosen(at, alone, within)
        tables.append(_measured(at, batches, within, peaks))
        notes += [f"Left out: {size}, {batch.name}, about {seconds:.0f} s." for batch, seconds in left_out]
    return Findings(tuple(tables), tuple(notes))


def seconds_by_jobs(subject: Subject, num_repeats: int, num_warm_up: int) -> dict[int, float]:
    """The median time of a batch of stylised images, by its number of jobs."""
    batches = {f"{n}": _Batch(subject, BATCH, n) for n in NUMBERS}
    measured = interleaved(batches, num_warm_up=num_warm_up, num_repeats=num_repeats)
    return {int(name): samples.median for name, samples in measured.items()}


def _seconds_alone(subject: Subject) -> float:
    began = time.perf_counter()
    subject.generator.generate(BATCH.specs(subject, 0, 1))
    return time.perf_counter() - began


def _chosen(
    subject: Subject, alone: float, within: Bounded
) -> tuple[list[_Batch], list[tuple[_Batch, float]]]:
    """The batches to measure, and those that would take too long, with how long."""
    batches = [_Batch(subject, BATCH, n) for n in within.numbers]
    batches += [_Batch(subject, STYLES, n) for n in within.numbers if n > 1]
    expected = [
        (batch, batch.n * alone if batch.growth is BATCH else (batch.n + 1) / 2 * alone) for batch in batches
    ]
    # One image is measured whatever it takes: all others are ratios to it.
    chosen = [batch for batch, seconds in expected if batch.n == 1 or seconds <= within.most_seconds]
    return chosen, [(batch, seconds) for batch, seconds in expected if batch not in chosen]


def _measured(subject: Subject, batches: Sequence[_Batch], within: Bounded, peaks: Peaks) -> Table:
    measured = interleaved(
        {batch.name: batch for batch in batches},
        num_repeats=within.num_repeats,
        num_warm_up=within.num_warm_up,
        cpu_clock=time.process_time if subject.is_on_cpu else None,
    )
    one = count(subject.generator, BATCH.specs(subject, 0, 1))
    two = {growth.name: count(subject.generator, growth.specs(subject, 0, 2)) for growth in (BATCH, STYLES)}
    alone = measured[batches[0].name]
    rows = []
    for batch in batches:
        timings = batch.timings[within.num_warm_up :]
        by_step = zip(*(timing.step_seconds for timing in timings), strict=True)
        steps = [statistics.median(seconds) for seconds in by_step]
        values = _values(measured[batch.name], alone, batch.n)
        values |= bounds(one.extended(two[batch.growth.name], batch.n - 1).steps, steps, peaks)
        rows.append(Row(batch.name, values | {"peak_bytes": batch.peak_bytes}))
    return Table(str(subject.size), tuple(rows))


def _values(samples: Samples, alone: Samples, n: int) -> dict[str, Value]:
    against = ratio(samples, alone)
    return {
        "median_seconds": samples.median,
        "cpu_seconds": samples.values()["cpu_seconds"],
        "images_per_second": n / samples.median,
        "median_ratio": against["median_ratio"],
        "cpu_ratio": against["cpu_ratio"],
        "num_samples": len(samples.wall),
    }
