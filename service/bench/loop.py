"""`bench loop`: whether the event loop delays the model thread.

The gap is the time on the model thread from the end of one step to the beginning of the next: all that can
delay the launch of a step. It is measured without other traffic, and while uploads are decoded, images
encoded and requests answered.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2

from service.bench.load import draw_one, image_requests, new_style, picture_file, upload
from service.bench.report import Findings, Row, Table, Value
from service.bench.subject import Subject
from service.bench.timing import Samples, percentile
from service.model.engine.generator import Generator, PendingBatch, never
from service.model.engine.types import Drawing, ImageSpec
from service.model.schedule import Size


@dataclass(frozen=True, slots=True)
class BatchSteps:
    """One batch. `gap_seconds` lie between the end of a step and the beginning of the next.

    `blocked_share` is the part of its time in which the model thread neither ran nor waited for a core: it
    waited for a lock, such as Python's own, or for threads of its own. None on systems that do not report it.
    """

    seeds: tuple[int, ...]
    transformer_seconds: float
    step_seconds: tuple[float, ...]
    gap_seconds: tuple[float, ...]
    blocked_share: float | None = None


class TimedGenerator(Generator):
    """Keeps the times of its steps; draws `num_sizes` sizes, the subject's own first."""

    def __init__(self, subject: Subject, num_sizes: int, max_batch: int | None = None) -> None:
        super().__init__(subject.backbone)
        self._max_batch = max_batch
        others = [size for size in self.sizes if size != subject.size]
        self.sizes = (subject.size, *others)[:num_sizes]
        self.default_size = subject.size
        self.batches: list[BatchSteps] = []

    def max_images(self, size: Size) -> int:
        return self._max_batch or super().max_images(size)

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        began, on_core = time.perf_counter(), _seconds_at_a_core()
        drawn = super().draw(specs, cancelled)
        blocked_share = None
        if on_core is not None:
            spent = time.perf_counter() - began
            blocked_share = 1 - ((_seconds_at_a_core() or 0.0) - on_core) / spent

        def drawings() -> list[Drawing]:
            found = drawn.drawings()
            self.batches.append(_steps(specs, found[0], blocked_share))
            return found

        return replace(drawn, drawings=drawings)


def _seconds_at_a_core() -> float | None:
    """How long this thread has run or waited for a core so far; None on systems other than Linux."""
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:
        return None
    return (int(ran) + int(waited)) / 1e9


def _steps(specs: Sequence[ImageSpec], drawing: Drawing, blocked_share: float | None) -> BatchSteps:
    timings = drawing.timings
    return BatchSteps(
        seeds=tuple(spec.seed for spec in specs),
        transformer_seconds=timings.transformer_seconds,
        step_seconds=timings.step_seconds,
        gap_seconds=timings.gap_seconds,
        blocked_share=blocked_share,
    )


NUM_PICTURES = 3
# Much traffic, but less than a second core can take: work that shares a core with the model slows it anyway,
# and would hide the effect of the event loop.
UPLOAD_SECONDS = 0.5
LIST_SECONDS = 0.1
SCRAPE_SECONDS = 1.0
_BUSY_SEEDS = 1_000_000


@dataclass
class Traffic:
    """What the busy server did besides drawing."""

    num_uploads: int = 0
    num_lists: int = 0
    num_scrapes: int = 0


@dataclass
class Phases:
    """The first seed of the images drawn in each phase, and the traffic of the busy ones."""

    seed: int
    idle: list[int] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)


async def alternate(
    client: httpx2.AsyncClient, size: str, *, seed: int, num_phases: int, num_images: int
) -> Phases:
    """Draw images one after the other, in phases with and without other traffic in turn."""
    style = await new_style(client, seed)
    pictures = [picture_file(seed + number, 2048, 1024) for number in range(NUM_PICTURES)]
    for picture in pictures:  # from now on they are known: decoded and compared, not read by the model
        (await upload(client, picture)).raise_for_status()
    phases = Phases(seed)
    for phase in range(num_phases):
        first = seed + phase * num_images
        await _draw(client, style, size, first, num_images)
        phases.idle += range(first, first + num_images)
        first += _BUSY_SEEDS
        async with _traffic(client, pictures, phases.traffic):
            # Two streams: while one image is drawn, the one before is encoded and answered.
            await asyncio.gather(
                _draw(client, style, size, first, num_images),
                _draw(client, style, size, first + _BUSY_SEEDS, num_images),
            )
        phases.busy += range(first, first + num_images)
        phases.busy += range(first + _BUSY_SEEDS, first + _BUSY_SEEDS + num_images)
    return phases


async def _draw(client: httpx2.AsyncClient, style: str, size: str, first: int, num: int) -> None:
    send = image_requests(client, style=style, size=size, seed=first)
    for number in range(num):
        await draw_one(send, number)


@asynccontextmanager
async def _traffic(
    client: httpx2.AsyncClient, pictures: Sequence[bytes], traffic: Traffic
) -> AsyncIterator[None]:
    async def uploading() -> None:
        await upload(client, pictures[traffic.num_uploads % len(pictures)])
        traffic.num_uploads += 1

    async def listing() -> None:
        await client.get("/v1/styles")
        traffic.num_lists += 1

    async def scraping() -> None:
        await client.get("/metrics")
        traffic.num_scrapes += 1

    kinds = (uploading, UPLOAD_SECONDS), (listing, LIST_SECONDS), (scraping, SCRAPE_SECONDS)
    tasks = [asyncio.create_task(_repeat(seconds, send)) for send, seconds in kinds]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _repeat(seconds: float, send: Callable[[], Awaitable[None]]) -> None:
    """One after the other, `seconds` apart or as far as the responses allow."""
    while True:
        began = time.perf_counter()
        await send()
        await asyncio.sleep(began + seconds - time.perf_counter())


def loop_findings(phases: Phases, batches: Sequence[BatchSteps]) -> Findings:
    """Of batches of one image; their seeds say which phase they are of."""
    of_seed = {batch.seeds[0]: batch for batch in batches if len(batch.seeds) == 1}
    idle = [of_seed[seed] for seed in phases.idle if seed in of_seed]
    busy = [of_seed[seed] for seed in phases.busy if seed in of_seed]
    gaps = [Row("idle", _of_gaps(idle)), Row("busy", _of_gaps(busy))]
    quiet, loud = (Samples(tuple(batch.transformer_seconds for batch in phase)) for phase in (idle, busy))
    rows = [
        Row("idle", quiet.values() | {"median_ratio": 1.0, "blocked_share": _blocked(idle)}),
        Row(
            "busy",
            loud.values() | {"median_ratio": loud.median / quiet.median, "blocked_share": _blocked(busy)},
        ),
    ]
    traffic = phases.traffic
    note = (
        f"While busy, the server also took {traffic.num_uploads} uploads of 2048x1024, answered "
        f"{traffic.num_lists} lists and {traffic.num_scrapes} scrapes, and encoded the images. Where model, "
        "uploads and this client have to share cores, the ratio has that in it. Blocked is the time in which "
        "the model thread neither ran nor waited for a core: what the event loop, by Python's lock, costs it."
    )
    return Findings((Table("gap before a step", tuple(gaps)), Table("transformer", tuple(rows))), (note,))


def _blocked(batches: Sequence[BatchSteps]) -> float | None:
    shares = [batch.blocked_share for batch in batches if batch.blocked_share is not None]
    return statistics.median(shares) if shares else None


def _of_gaps(batches: Sequence[BatchSteps]) -> dict[str, Value]:
    gaps = tuple(gap for batch in batches for gap in batch.gap_seconds)
    steps = sum(sum(batch.step_seconds) for batch in batches)
    return {
        "median_seconds": Samples(gaps).median,
        "p99_seconds": percentile(gaps, 0.99),
        "longest_seconds": max(gaps),
        "num_gaps": len(gaps),
        "gaps_to_steps_share": sum(gaps) / steps,
    }
