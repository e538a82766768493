"""Runs one kind of measurement, on the model or on a server, and reports it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
from pydantic import TypeAdapter

from service.bench import counts, fleet, flops, latency, loop, serve, style, throughput
from service.bench.load import ServedModel, read_model
from service.bench.loop import BatchSteps
from service.bench.report import Findings, Report, conditions
from service.bench.server import ServerOptions, running
from service.bench.subject import Subject, SubjectOptions, load_subject
from service.evaluation.hardware import hardware_name, measure_peaks
from service.model.checkpoints import registry as presets
from service.model.checkpoints.loader import OnProgress, no_progress
from service.model.schedule import Size

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure, and how much of it."""

    kind: str
    subject: SubjectOptions
    threads: int | None
    num_repeats: int
    num_warm_up: int
    most_seconds: float  # of one batch, in `throughput`
    rates: tuple[float, ...]  # of `serve`
    seconds: float  # of each rate
    startup_seconds: float = 60.0  # of a replica, in `fleet`
    batch_seconds: tuple[tuple[int, float], ...] = ()  # of `fleet`: measured elsewhere, by jobs in a batch


def run(options: BenchOptions, on_progress: OnProgress = no_progress) -> Report:
    """ValueError with a sentence when there is no such model, device or size, or no server starts."""
    if options.kind == "counts":
        return _run_counts(options)
    if options.kind == "fleet" and options.batch_seconds:
        findings = fleet.measure_fleet(
            dict(options.batch_seconds), options.startup_seconds, options.subject.seed
        )
        return _report(options, "given", "no", "given", "given", findings)
    if options.kind in _ON_MODEL:
        return _run_on_model(options, load_subject(options.subject, on_progress))
    return _run_on_server(options)


def _run_on_model(options: BenchOptions, subject: Subject) -> Report:
    findings = _ON_MODEL[options.kind](options, subject)
    sizes = _sizes(options, subject) if options.kind == "throughput" else (subject.size,)
    backbone, size = subject.backbone, ", ".join(map(str, sizes))
    return _report(options, backbone.name, subject.weights, backbone.precision, size, findings)


def _run_counts(options: BenchOptions) -> Report:
    """Of a shape alone: no weights, and no device."""
    size, findings = counts.measure_counts(options.subject.model, options.subject.size)
    return _report(options, options.subject.model, "no", "bf16", str(size), findings)


def _latency(options: BenchOptions, subject: Subject) -> Findings:
    return latency.measure_latency(subject, num_repeats=options.num_repeats, num_warm_up=options.num_warm_up)


def _throughput(options: BenchOptions, subject: Subject) -> Findings:
    within = throughput.Bounded(
        num_repeats=options.num_repeats, num_warm_up=options.num_warm_up, most_seconds=options.most_seconds
    )
    peaks = measure_peaks(subject.backbone.device, subject.backbone.dtype)
    return throughput.measure_throughput(subject, _sizes(options, subject), within, peaks)


def _flops(options: BenchOptions, subject: Subject) -> Findings:
    return flops.measure_flops(subject)


def _fleet(options: BenchOptions, subject: Subject) -> Findings:
    batches = throughput.seconds_by_jobs(subject, options.num_repeats, options.num_warm_up)
    return fleet.measure_fleet(batches, options.startup_seconds, options.subject.seed)


_ON_MODEL: dict[str, Callable[[BenchOptions, Subject], Findings]] = {
    "latency": _latency,
    "throughput": _throughput,
    "flops": _flops,
    "fleet": _fleet,
}


def _sizes(options: BenchOptions, subject: Subject) -> tuple[Size, ...]:
    return subject.budget_sizes if options.subject.size is None else (subject.size,)


def _run_on_server(options: BenchOptions) -> Report:
    measure = {"serve": _serve, "style": _style, "loop": _loop}[options.kind]
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder:
        about, findings = measure(options, Path(folder))
    weights = "random" if options.subject.is_random else about.fingerprint
    return _report(options, options.subject.model, weights, about.precision, about.sizes[0], findings)


def _serve(options: BenchOptions, folder: Path) -> tuple[ServedModel, Findings]:
    offered = serve.Offered(
        rates=options.rates,
        seconds=options.seconds,
        seed=options.subject.seed,
        num_single=options.num_repeats,
    )

    async def measure(client: httpx2.AsyncClient) -> tuple[ServedModel, Findings]:
        about = await read_model(client)
        return about, await serve.measure_serve(client, about.sizes[0], offered)

    return _with_server(_server_options(options, folder), measure)


def _style(options: BenchOptions, folder: Path) -> tuple[ServedModel, Findings]:
    seed = options.subject.seed
    server_options = _server_options(options, folder, num_sizes=2)
    uploads = _with_server(
        server_options, lambda client: style.upload_styles(client, seed=seed, num=options.num_repeats)
    )

    async def measure(client: httpx2.AsyncClient) -> tuple[ServedModel, style.Uses]:
        about = await read_model(client)
        return about, await style.use_styles(client, uploads.style_ids, about.sizes, seed=seed)

    about, uses = _with_server(server_options, measure)  # the same store, and nothing in memory
    return about, style.style_findings(uploads, uses)


def _loop(options: BenchOptions, folder: Path) -> tuple[ServedModel, Findings]:
    steps_file = folder / "steps.json"

    async def measure(client: httpx2.AsyncClient) -> tuple[ServedModel, loop.Phases]:
        about = await read_model(client)
        return about, await loop.alternate(
            client, about.sizes[0], seed=options.subject.seed, num_phases=options.num_repeats, num_images=5
        )

    about, phases = _with_server(_server_options(options, folder, steps_file=str(steps_file)), measure)
    batches = TypeAdapter(list[BatchSteps]).validate_json(steps_file.read_bytes())
    return about, loop.loop_findings(phases, batches)


def _server_options(
    options: BenchOptions, folder: Path, *, num_sizes: int = 1, steps_file: str | None = None
) -> ServerOptions:
    return ServerOptions(
        asdict(options.subject), options.threads, str(folder / "server"), num_sizes, steps_file
    )


def _with_server(
    server_options: ServerOptions, measure: Callable[[httpx2.AsyncClient], Awaitable[ResultT]]
) -> ResultT:
    async def connected(client: httpx2.AsyncClient) -> ResultT:
        async with client:
            return await measure(client)

    with running(server_options) as server:
        return asyncio.run(connected(server.client()))


def _report(
    options: BenchOptions, model: str, weights: str, precision: str, size: str, findings: Findings
) -> Report:
    device = presets.device_of(options.subject.device)
    about = conditions(
        hardware=hardware_name(device),
        device=device.type,
        model=model,
        weights=weights,
        precision=precision,
        size=size,
        seed=options.subject.seed,
        num_warm_up=options.num_warm_up,
        num_repeats=options.num_repeats,
    )
    return Report(options.kind, about, findings.tables, findings.notes)
