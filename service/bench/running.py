"""Running one kind of measurement from the wish to the report."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
from pydantic import TypeAdapter

from service.bench import latency, loop, operations, serve, style, throughput
from service.bench.conditions import conditions
from service.bench.report import Findings, Report
from service.bench.requests import Served, served
from service.bench.server import Plan, running
from service.bench.steps import BatchSteps
from service.bench.subject import Subject, Wanted, load_subject
from service.evaluation.hardware import hardware_name
from service.evaluation.peaks import measure_peaks
from service.model.checkpoints import registry as presets
from service.model.checkpoints.loader import OnProgress, no_progress
from service.model.schedule import Size

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What to measure, and how much of it."""

    kind: str
    wanted: Wanted
    threads: int | None
    num_repeats: int
    num_warm_up: int
    most_seconds: float  # of one batch, in `throughput`
    rates: tuple[float, ...]  # of `serve`
    seconds: float  # of each rate


def run(asked: Asked, on_progress: OnProgress = no_progress) -> Report:
    """ValueError with a sentence when there is no such model, device or size, or no server starts."""
    if asked.kind in _ON_THE_MODEL:
        return _run_on_model(asked, load_subject(asked.wanted, on_progress))
    return _run_on_server(asked)


def _run_on_model(asked: Asked, subject: Subject) -> Report:
    findings = _ON_THE_MODEL[asked.kind](asked, subject)
    sizes = _sizes(asked, subject) if asked.kind == "throughput" else (subject.size,)
    backbone, size = subject.backbone, ", ".join(map(str, sizes))
    return _report(asked, backbone.name, subject.weights, backbone.precision, size, findings)


def _latency(asked: Asked, subject: Subject) -> Findings:
    return latency.measure_latency(subject, num_repeats=asked.num_repeats, num_warm_up=asked.num_warm_up)


def _throughput(asked: Asked, subject: Subject) -> Findings:
    within = throughput.Bounded(
        num_repeats=asked.num_repeats, num_warm_up=asked.num_warm_up, most_seconds=asked.most_seconds
    )
    peaks = measure_peaks(subject.backbone.device, subject.backbone.dtype)
    return throughput.measure_throughput(subject, _sizes(asked, subject), within, peaks)


def _operations(asked: Asked, subject: Subject) -> Findings:
    return operations.measure_operations(subject)


_ON_THE_MODEL: dict[str, Callable[[Asked, Subject], Findings]] = {
    "latency": _latency,
    "throughput": _throughput,
    "flops": _operations,
}


def _sizes(asked: Asked, subject: Subject) -> tuple[Size, ...]:
    return subject.budget_sizes if asked.wanted.size is None else (subject.size,)


def _run_on_server(asked: Asked) -> Report:
    measure = {"serve": _serve, "style": _style, "loop": _loop}[asked.kind]
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder:
        about, findings = measure(asked, Path(folder))
    weights = "random" if asked.wanted.is_random else about.fingerprint
    return _report(asked, asked.wanted.model, weights, about.precision, about.sizes[0], findings)


def _serve(asked: Asked, folder: Path) -> tuple[Served, Findings]:
    offered = serve.Offered(
        rates=asked.rates, seconds=asked.seconds, seed=asked.wanted.seed, num_lone=asked.num_repeats
    )

    async def talk(client: httpx2.AsyncClient) -> tuple[Served, Findings]:
        about = await served(client)
        return about, await serve.measure_serve(client, about.sizes[0], offered)

    return _talk(_plan(asked, folder), talk)


def _style(asked: Asked, folder: Path) -> tuple[Served, Findings]:
    seed = asked.wanted.seed
    plan = _plan(asked, folder, num_sizes=2)
    uploads = _talk(plan, lambda client: style.upload_styles(client, seed=seed, num=asked.num_repeats))

    async def talk(client: httpx2.AsyncClient) -> tuple[Served, style.Uses]:
        about = await served(client)
        return about, await style.use_styles(client, uploads.style_ids, about.sizes, seed=seed)

    about, uses = _talk(plan, talk)  # the same store, and nothing in memory
    return about, style.style_findings(uploads, uses)


def _loop(asked: Asked, folder: Path) -> tuple[Served, Findings]:
    steps_file = folder / "steps.json"

    async def talk(client: httpx2.AsyncClient) -> tuple[Served, loop.Phases]:
        about = await served(client)
        return about, await loop.alternate(
            client, about.sizes[0], seed=asked.wanted.seed, num_phases=asked.num_repeats, num_images=5
        )

    about, phases = _talk(_plan(asked, folder, steps_file=str(steps_file)), talk)
    batches = TypeAdapter(list[BatchSteps]).validate_json(steps_file.read_bytes())
    return about, loop.loop_findings(phases, batches)


def _plan(asked: Asked, folder: Path, *, num_sizes: int = 1, steps_file: str | None = None) -> Plan:
    return Plan(asdict(asked.wanted), asked.threads, str(folder / "server"), num_sizes, steps_file)


def _talk(plan: Plan, talk: Callable[[httpx2.AsyncClient], Awaitable[Told]]) -> Told:
    async def connected(client: httpx2.AsyncClient) -> Told:
        async with client:
            return await talk(client)

    with running(plan) as server:
        return asyncio.run(connected(server.client()))


def _report(asked: Asked, model: str, weights: str, precision: str, size: str, findings: Findings) -> Report:
    device = presets.device_of(asked.wanted.device)
    about = conditions(
        hardware=hardware_name(device),
        device=device.type,
        model=model,
        weights=weights,
        precision=precision,
        size=size,
        seed=asked.wanted.seed,
        num_warm_up=asked.num_warm_up,
        num_repeats=asked.num_repeats,
    )
    return Report(asked.kind, about, findings.tables, findings.notes)
