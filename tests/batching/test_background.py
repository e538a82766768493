"""Batches in the background yield: others wait for one of their steps at most, and cost them nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from service.batching.batcher import Batcher
from service.batching.model_thread import ModelThread
from service.model.engine.generator import Cancelled, OutOfMemory
from tests.support.batcher import Clock, batcher_setup, results

NUM_STEPS = 3


class SteppingModel:
    """Upper-cases words in three steps, and writes down which step of which batch was done; after each the
    test lets it go on. A batch that does not fit beside another one says so.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.inside = 0
        self.fits_beside_another = True
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Queue[str] = asyncio.Queue()
        self._permits = threading.Semaphore(0)

    def __call__(self, words: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        if self.inside and not self.fits_beside_another:
            raise OutOfMemory
        self.inside += 1
        try:
            for step in range(1, NUM_STEPS + 1):
                self.steps.append(f"{'+'.join(words)}{step}")
                self._loop.call_soon_threadsafe(self._done.put_nowait, self.steps[-1])
                assert self._permits.acquire(timeout=30)
                if cancelled():
                    raise Cancelled
        finally:
            self.inside -= 1
        return [word.upper() for word in words]

    async def after(self, step: str) -> None:
        """Returns once this step is done; the model waits, and may then do the following one."""
        while await asyncio.wait_for(self._done.get(), timeout=30) != step:
            self._permits.release()

    def let_go(self, num_steps: int = 1000) -> None:
        for _ in range(num_steps):
            self._permits.release()


@dataclass
class Both:
    model: SteppingModel
    thread: ModelThread
    normal: Batcher[str, str]
    background: Batcher[str, str]


@asynccontextmanager
async def both(
    max_fitting: int = 4, min_share: float = 0.0, clock: Clock | None = None
) -> AsyncIterator[Both]:
    """A batcher and one in the background, on one model thread with memory for so many words."""
    model, thread = SteppingModel(), ModelThread(min_share, clock or Clock())
    normal = batcher_setup(model, max_jobs=4, thread=thread, max_fitting=max_fitting).batcher
    background = batcher_setup(model, max_jobs=1, thread=thread, yields=True, max_fitting=max_fitting).batcher
    await normal.start()
    await background.start()
    try:
        yield Both(model, thread, normal, background)
    finally:
        model.let_go()
        await background.stop()
        await normal.stop()
        thread.shutdown()


async def test_a_batch_in_the_background_pauses_after_a_step_until_no_other_job_is_left() -> None:
    async with both() as run:
        jobs = run.background.submit(["b"])
        await run.model.after("b1")
        jobs += run.normal.submit(["x"])
        run.model.let_go(1)
        await run.model.after("x2")
        jobs += run.normal.submit(["y"])  # arrives while x runs: b does not go on between the two
        run.model.let_go()
        assert await results(jobs) == ["B", "X", "Y"]
    assert run.model.steps == ["b1", "x1", "x2", "x3", "y1", "y2", "y3", "b2", "b3"]


async def test_none_begins_while_another_job_waits_or_runs() -> None:
    async with both() as run:
        jobs = run.normal.submit(["x"])
        await run.model.after("x1")
        jobs += run.background.submit(["b"])
        jobs += run.normal.submit(["y"])
        run.model.let_go()
        await results(jobs)
    assert run.model.steps == ["x1", "x2", "x3", "y1", "y2", "y3", "b1", "b2", "b3"]


async def test_a_step_that_is_due_goes_before_the_next_batch_and_the_following_one_waits_again() -> None:
    clock = Clock()
    async with both(min_share=0.1, clock=clock) as run:
        jobs = run.background.submit(["b"])
        await run.model.after("b1")
        clock.now += 1  # the step took a second: the next one is due in ten
        jobs += run.normal.submit(["x"])
        run.model.let_go(1)
        await run.model.after("x1")
        jobs += run.normal.submit(["y"])
        run.model.let_go(1)
        await run.model.after("x3")
        clock.now += 10
        run.model.let_go(1)
        await run.model.after("b2")
        clock.now += 1
        run.model.let_go()
        assert await results(jobs) == ["B", "X", "Y"]
    assert run.model.steps == ["b1", "x1", "x2", "x3", "b2", "y1", "y2", "y3", "b3"]


async def test_one_that_is_due_begins_although_others_have_work() -> None:
    clock = Clock()
    async with both(min_share=0.1, clock=clock) as run:
        jobs = run.normal.submit(["x"])
        await run.model.after("x1")
        jobs += run.background.submit(["b"])
        run.model.let_go(1)
        await run.model.after("x2")
        jobs += run.normal.submit(["y"])
        run.model.let_go(1)
        await run.model.after("b1")
        clock.now += 1
        run.model.let_go()
        await results(jobs)
    assert run.model.steps == ["x1", "x2", "x3", "b1", "y1", "y2", "y3", "b2", "b3"]


async def test_one_that_was_preempted_does_not_begin_again_in_vain() -> None:
    clock = Clock()
    async with both(min_share=0.1, clock=clock) as run:
        jobs = run.background.submit(["b"])
        await run.model.after("b1")
        jobs += run.normal.submit(["x"] * 4)
        run.model.let_go(1)
        await run.model.after("x+x+x+x1")
        clock.now += 1000
        jobs += run.normal.submit(["y"] * 4)
        run.model.let_go()
        await results(jobs)
    assert run.model.steps[-9:-3] == [f"{'+'.join(4 * word)}{step}" for word in "xy" for step in (1, 2, 3)]


async def test_where_memory_does_not_suffice_for_both_it_stops_and_runs_again_later() -> None:
    async with both(max_fitting=4) as run:
        jobs = run.background.submit(["b"])  # a quarter of the memory
        await run.model.after("b2")
        jobs += run.normal.submit(["x"] * 4)  # all of it
        run.model.let_go()
        assert await results(jobs) == ["B", *"XXXX"]
    assert run.model.steps == ["b1", "b2", "x+x+x+x1", "x+x+x+x2", "x+x+x+x3", "b1", "b2", "b3"]


async def test_a_batch_that_did_not_fit_beside_it_runs_once_it_has_stopped() -> None:
    async with both() as run:
        run.model.fits_beside_another = False
        jobs = run.background.submit(["b"])
        await run.model.after("b1")
        jobs += run.normal.submit(["x"])
        run.model.let_go()
        assert await results(jobs) == ["B", "X"]
    assert run.model.steps == ["b1", "x1", "x2", "x3", "b1", "b2", "b3"]


async def test_a_job_that_is_cancelled_in_a_pause_ends_there() -> None:
    async with both() as run:
        (cancelled,) = run.background.submit(["b"])
        await run.model.after("b1")
        (job,) = run.normal.submit(["x"])
        run.model.let_go(1)
        await run.model.after("x1")
        cancelled.future.cancel()
        run.model.let_go()
        assert await job.future == "X"
        assert await results(run.background.submit(["c"])) == ["C"]
    assert run.model.steps == ["b1", "x1", "x2", "x3", "c1", "c2", "c3"]


async def test_what_waits_in_the_background_makes_no_request_wait_longer() -> None:
    async with both() as run:
        jobs = run.background.submit(["b", "b", "b"])
        await run.model.after("b1")
        assert run.thread.accepted_seconds == 0
        run.model.let_go()
        await results(jobs)
        assert run.thread.paused_seconds < 1  # it paused for nobody


@pytest.mark.parametrize("num_steps", [1, 2])
async def test_a_request_that_leaves_while_it_waits_lets_it_go_on(num_steps: int) -> None:
    async with both() as run:
        jobs = run.background.submit(["b"])
        await run.model.after(f"b{num_steps}")
        (left,) = run.normal.submit(["x"])
        left.future.cancel()
        run.model.let_go()
        assert await results(jobs) == ["B"]
    assert run.model.steps == ["b1", "b2", "b3"]
