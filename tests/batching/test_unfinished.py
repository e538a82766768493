"""A batch whose images are still being decoded: the next one runs meanwhile, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from service.batching.model_thread import BatchFailure, ModelThread, PendingOutputs
from service.errors import GenerationFailed, NotReady
from tests.support.batcher import batcher_setup, failures, others_had_their_turn, results, serving


class Decoder:
    """Leaves every batch unfinished until the test opens its gate. Says which came, in order."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.waiters: list[str] = []  # the threads that waited
        self._loop = asyncio.get_running_loop()
        self._drawn: asyncio.Queue[list[str]] = asyncio.Queue()
        self._gates: dict[str, threading.Event] = {}

    def __call__(self, inputs: Sequence[str], cancelled: Callable[[], bool]) -> PendingOutputs[str]:
        self.batches.append(list(inputs))
        gate = self._gates[inputs[0]] = threading.Event()
        self._loop.call_soon_threadsafe(self._drawn.put_nowait, list(inputs))

        def outputs() -> list[str]:
            self.waiters.append(threading.current_thread().name)
            assert gate.wait(30)
            if "fails" in inputs[0]:
                raise RuntimeError("no image")
            return [word.upper() for word in inputs]

        return PendingOutputs(outputs)

    async def drawn(self) -> list[str]:
        return await asyncio.wait_for(self._drawn.get(), timeout=30)

    def finish(self, first: str) -> None:
        self._gates[first].set()


async def test_the_next_batch_runs_while_one_is_decoded_and_may_end_before_it() -> None:
    model = Decoder()
    async with serving(batcher_setup(model)) as batcher:
        first = batcher.submit(["a1", "a2"])
        assert await model.drawn() == ["a1", "a2"]
        second = batcher.submit(["b1"])
        assert await model.drawn() == ["b1"]
        model.finish("b1")
        assert await results(second) == ["B1"]
        assert not any(job.future.done() for job in first)
        model.finish("a1")
        assert await results(first) == ["A1", "A2"]
    assert not any(name.startswith("model") for name in model.waiters)


async def test_a_batch_whose_outputs_fail_leaves_the_next_one_untouched() -> None:
    model = Decoder()
    async with serving(batcher_setup(model)) as batcher:
        failing = batcher.submit(["a fails"])
        await model.drawn()
        other = batcher.submit(["b1"])
        await model.drawn()
        model.finish("a fails")
        (error,) = await failures(failing)
        assert isinstance(error, GenerationFailed)
        model.finish("b1")
        assert await results(other) == ["B1"]
        assert batcher.alive


class Exhausted(ModelThread):
    """There is no other thread on which to wait."""

    async def finish(self, pending: PendingOutputs[Any], num_jobs: int) -> list[Any] | BatchFailure:
        raise RuntimeError("can't start new thread")


async def test_when_waiting_for_outputs_fails_its_jobs_fail() -> None:
    model = Decoder()
    async with serving(batcher_setup(model, thread=Exhausted())) as batcher:
        (error,) = await failures(batcher.submit(["a1"]))
        assert isinstance(error, GenerationFailed)
        assert batcher.alive


async def test_draining_waits_for_what_is_being_decoded() -> None:
    model = Decoder()
    async with serving(batcher_setup(model)) as batcher:
        jobs = batcher.submit(["a1"])
        await model.drawn()
        draining = asyncio.create_task(batcher.drain())
        await others_had_their_turn()
        assert not draining.done()
        model.finish("a1")
        await draining
        assert await results(jobs) == ["A1"]


async def test_an_impatient_stop_tells_the_jobs_of_an_unfinished_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Decoder()
    setup = batcher_setup(model)
    await setup.batcher.start()
    jobs = setup.batcher.submit(["a1"])
    await model.drawn()
    await others_had_their_turn()
    stopping = asyncio.create_task(setup.batcher.stop())
    await others_had_their_turn()
    stopping.cancel()
    await asyncio.wait([stopping])
    (error,) = await failures(jobs)
    assert isinstance(error, NotReady)
    model.finish("a1")
    setup.thread.shutdown()
    assert not caplog.records
