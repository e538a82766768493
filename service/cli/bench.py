"""`atelier bench`: measure, print, keep, compare."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli import options
from service.cli.options import settings_under, writable_file

if TYPE_CHECKING:
    from service.bench.runner import BenchOptions
    from service.bench.subject import SubjectOptions
    from service.settings import Settings


class Kind(StrEnum):
    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SERVE = "serve"
    STYLE = "style"
    LOOP = "loop"
    FLOPS = "flops"
    FLEET = "fleet"
    COUNTS = "counts"


KindArgument = Annotated[
    Kind,
    typer.Argument(
        help="latency: one request at a time, by stage and step, beside the plain two-run form. "
        "throughput: sizes, batches and styles of one prompt, and what bounds each. "
        "serve: a real server under open-loop loads. "
        "style: upload to ID; a feature in memory, in the store, lost. "
        "loop: whether HTTP delays the model thread. "
        "flops: operations, counted, against the least that the method needs. "
        "counts: kernels that a GPU would be given, eager and compiled, and the time they need at least: "
        "needs neither weights nor a GPU. "
        "fleet: 1 to 1,000 replicas, simulated from the measured times of batches."
    ),
]
Random = Annotated[
    bool,
    typer.Option(
        "--random",
        help="Random weights of the model's shape: needs no files. Also for bench-512, bench-switti-512.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(help="Of the images; by default the model's own, and for throughput all budgets."),
]
Repeats = Annotated[int, typer.Option(min=1, help="Repetitions that count.")]
WarmUp = Annotated[int, typer.Option(min=0, help="Repetitions before them that do not.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the random weights, pictures, images, arrivals.")]
MostSeconds = Annotated[float, typer.Option(min=0, help="throughput: leave out batches that take longer.")]
Rates = Annotated[
    list[float] | None,
    typer.Option(min=0.001, help="serve: requests a second; repeat it for several loads."),
]
Seconds = Annotated[float, typer.Option(min=0.1, help="serve: how long each load lasts.")]
Startup = Annotated[float, typer.Option(min=0, help="fleet: seconds until a replica that is added draws.")]
Batches = Annotated[
    list[str] | None,
    typer.Option(help="fleet: JOBS=SECONDS of a batch measured elsewhere, repeated; no model is loaded."),
]
Json = Annotated[Path | None, typer.Option(callback=writable_file, help="File to write the report to.")]
Compare = Annotated[Path | None, typer.Option(help="An earlier report: print now / then as well.")]
Force = Annotated[
    bool, typer.Option("--force", help="Compare even what was measured under other conditions.")
]
SETTINGS = ("model", "device", "threads", "precision", "text_precision", "text_device", "decoding")


def bench(
    kind: KindArgument = Kind.LATENCY,
    model: options.Model = None,
    random: Random = False,
    device: options.Device = None,
    threads: options.Threads = None,
    precision: options.Precision = None,
    text_precision: options.TextPrecision = None,
    text_device: options.TextDevice = None,
    decoding: options.Decoding = None,
    size: Size = None,
    repeats: Repeats = 10,
    warm_up: WarmUp = 2,
    seed: Seed = 0,
    most_seconds: MostSeconds = 60.0,
    rate: Rates = None,
    seconds: Seconds = 30.0,
    startup_seconds: Startup = 60.0,
    batch_seconds: Batches = None,
    json: Json = None,
    compare: Compare = None,
    force: Force = False,
) -> None:
    """Measure how fast it is on this machine, and say on what."""
    given = locals()
    settings = settings_under(**{name: given[name] for name in SETTINGS})
    from service.bench.runner import BenchOptions

    measured = BenchOptions(
        kind=kind.value,
        subject=_subject(settings, is_random=random, size=size, seed=seed),
        threads=settings.threads,
        num_repeats=repeats,
        num_warm_up=warm_up,
        most_seconds=most_seconds,
        rates=tuple(rate or ()),
        seconds=seconds,
        startup_seconds=startup_seconds,
        batch_seconds=tuple(map(_read_batch, batch_seconds or ())),
    )
    _measure(measured, json, compare, force)


def _read_batch(text: str) -> tuple[int, float]:
    num_jobs, _, seconds = text.partition("=")
    try:
        batch = int(num_jobs), float(seconds)
    except ValueError:
        batch = 0, 0.0
    if not (batch[0] > 0 and 0 < batch[1] < float("inf")):
        raise ValueError(f"--batch-seconds must be JOBS=SECONDS, such as 8=0.36, not {text!r}")
    return batch


def _subject(settings: Settings, *, is_random: bool, size: str | None, seed: int) -> SubjectOptions:
    from service.bench.subject import SubjectOptions

    return SubjectOptions(
        model=settings.model,
        is_random=is_random,
        device=settings.device,
        choices=settings.choices,
        size=size,
        seed=seed,
        models_dir=str(settings.models_dir),
    )


def _measure(options: BenchOptions, json: Path | None, compare: Path | None, force: bool) -> None:
    from service.bench.report import read_report
    from service.bench.runner import run
    from service.bench.tables import compare as compared
    from service.bench.tables import render, require_comparable
    from service.cli.progress import bars

    earlier = read_report(compare) if compare else None  # fails before the measurement
    with bars() as on_progress:
        report = run(options, on_progress)
    typer.echo(render(report))
    if json is not None:
        json.write_text(report.to_json())
    if earlier is not None and compare is not None:
        if not force:
            require_comparable(report, earlier, compare)
        typer.echo("\n" + compared(report, earlier))
