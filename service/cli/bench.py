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


class Kind(StrEnum):
    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SERVE = "serve"
    STYLE = "style"
    LOOP = "loop"
    FLOPS = "flops"


def bench(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="latency: one request at a time, by stage and step, beside the plain two-run form. "
            "throughput: sizes, batches and styles of one prompt, and what bounds each. "
            "serve: a real server under open-loop loads. "
            "style: upload to ID; a feature in memory, in the store, lost. "
            "loop: whether HTTP delays the model thread. "
            "flops: operations, counted, against the least that the method needs."
        ),
    ] = Kind.LATENCY,
    model: options.Model = None,
    random: Annotated[
        bool,
        typer.Option(
            "--random",
            help="Random weights of the model's shape: needs no files. Also for bench-512, bench-switti-512.",
        ),
    ] = False,
    device: options.Device = None,
    threads: options.Threads = None,
    precision: options.Precision = None,
    text_precision: options.TextPrecision = None,
    text_device: options.TextDevice = None,
    decoding: options.Decoding = None,
    size: Annotated[
        str | None,
        typer.Option(help="Of the images; by default the model's own, and for throughput all budgets."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions that count.")] = 10,
    warm_up: Annotated[int, typer.Option(min=0, help="Repetitions before them that do not.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights, pictures, images, arrivals.")] = 0,
    most_seconds: Annotated[
        float, typer.Option(min=0, help="throughput: leave out batches that take longer.")
    ] = 60.0,
    rate: Annotated[
        list[float] | None,
        typer.Option(min=0.001, help="serve: requests a second; repeat it for several loads."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="serve: how long each load lasts.")] = 30.0,
    json: Annotated[
        Path | None, typer.Option(callback=writable_file, help="File to write the report to.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="An earlier report: print now / then as well.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare even what was measured under other conditions.")
    ] = False,
) -> None:
    """Measure how fast it is on this machine, and say on what."""
    settings = settings_under(
        model=model,
        device=device,
        threads=threads,
        precision=precision,
        text_precision=text_precision,
        text_device=text_device,
        decoding=decoding,
    )
    from service.bench.runner import BenchOptions
    from service.bench.subject import SubjectOptions

    measured = BenchOptions(
        kind=kind.value,
        subject=SubjectOptions(
            model=settings.model,
            is_random=random,
            device=settings.device,
            choices=settings.choices,
            size=size,
            seed=seed,
            models_dir=str(settings.models_dir),
        ),
        threads=settings.threads,
        num_repeats=repeats,
        num_warm_up=warm_up,
        most_seconds=most_seconds,
        rates=tuple(rate or ()),
        seconds=seconds,
    )
    _measure(measured, json, compare, force)


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
