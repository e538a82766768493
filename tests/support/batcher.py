"""A batcher on a real event loop and a real model thread, whose model waits until the test lets it go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.batching.batcher import Batcher
from service.batching.job_queue import Job
from service.batching.model_thread import ModelThread, PendingOutputs
from service.metrics import Metrics
from service.model.engine.generator import Cancelled

Run = Callable[[Sequence[str], Callable[[], bool]], Sequence[str] | PendingOutputs[str]]


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class GatedModel:
    """Upper-cases its inputs, once the test lets each batch finish. Says which batches came, in order."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._loop = asyncio.get_running_loop()
        self._arrivals: asyncio.Queue[list[str]] = asyncio.Queue()
        self._permits = threading.Semaphore(0)

    def __call__(self, inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        self.batches.append(list(inputs))
        self._loop.call_soon_threadsafe(self._arrivals.put_nowait, list(inputs))
        assert self._permits.acquire(timeout=30)
        if cancelled():
            raise Cancelled
        return [word.upper() for word in inputs]

    async def next_batch(self) -> list[str]:
        return await asyncio.wait_for(self._arrivals.get(), timeout=30)

    def let_go(self, num_batches: int = 1) -> None:
        for _ in range(num_batches):
            self._permits.release()


@dataclass
class BatcherSetup:
    batcher: Batcher[str, str]
    thread: ModelThread
    clock: Clock = field(default_factory=Clock)
    metrics: Metrics = field(default_factory=Metrics)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"atelier_{name}", {"queue": "generate", **labels})


def batcher_setup(
    run: Run,
    *,
    max_jobs: int = 4,
    max_queued: int = 8,
    clock: Clock | None = None,
    thread: ModelThread | None = None,
    yields: bool = False,
    max_fitting: int | None = None,
) -> BatcherSetup:
    """A batcher whose inputs are words; the first letter is the group."""
    thread, metrics, clock = thread or ModelThread(), Metrics(), clock or Clock()
    batcher: Batcher[str, str] = Batcher(
        run,
        name="background" if yields else "generate",
        group=lambda word: word[0],
        max_jobs=lambda _: max_jobs,
        yields=yields,
        max_fitting=None if max_fitting is None else lambda _: max_fitting,
        max_queued=max_queued,
        executor=thread,
        clock=clock,
        metrics=metrics,
    )
    return BatcherSetup(batcher, thread, clock, metrics)


@asynccontextmanager
async def serving(setup: BatcherSetup) -> AsyncIterator[Batcher[str, str]]:
    await setup.batcher.start()
    try:
        yield setup.batcher
    finally:
        await setup.batcher.stop()
        setup.thread.shutdown()


async def results(jobs: Sequence[Job[str, str]]) -> list[str]:
    return [await job.future for job in jobs]


async def failures(jobs: Sequence[Job[str, str]]) -> list[BaseException]:
    outcomes = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    assert all(isinstance(outcome, BaseException) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, BaseException)]


async def others_had_their_turn() -> None:
    """Lets every task that is ready run until it waits: waking one takes a few turns of the event loop."""
    for _ in range(5):
        await asyncio.sleep(0)
