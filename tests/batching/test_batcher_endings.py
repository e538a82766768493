"""How jobs end when they do not end well: clients gone, deadlines, failures, memory, drain, death."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from service.errors import DeadlineExceeded, GenerationFailed, NotReady
from service.model.engine.generator import Cancelled, OutOfMemory
from tests.support.batcher import (
    Clock,
    GatedModel,
    batcher_setup,
    failures,
    others_had_their_turn,
    results,
    serving,
)


@dataclass
class RealClock(Clock):
    def __call__(self) -> float:
        return time.monotonic()


# Clients that go away, deadlines


async def test_a_cancelled_job_never_runs_and_frees_the_queue_at_once() -> None:
    model = GatedModel()
    setup = batcher_setup(model, max_queued=2)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        gone, kept = batcher.submit(["a1", "a2"])
        gone.future.cancel()
        assert batcher.num_queued == 1
        jobs += [kept, *batcher.submit(["a3"])]
        model.let_go(2)
        assert await results(jobs) == ["A0", "A2", "A3"]
    assert model.batches == [["a0"], ["a2", "a3"]]
    assert setup.metric("cancellations_total", when="queued") == 1
    assert setup.metric("cancellations_total", when="running") == 0


async def test_a_running_batch_runs_until_its_last_client_disconnects() -> None:
    loop, answers = asyncio.get_running_loop(), []
    asked: asyncio.Queue[bool] = asyncio.Queue()
    step = threading.Semaphore(0)

    def steps(inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        while step.acquire(timeout=30):
            answers.append(cancelled())
            loop.call_soon_threadsafe(asked.put_nowait, answers[-1])
            if answers[-1]:
                raise Cancelled
        return []

    setup = batcher_setup(steps)
    async with serving(setup) as batcher:
        first, second = batcher.submit(["a1", "a2"])
        step.release()
        assert not await asked.get()
        first.future.cancel()
        step.release()
        assert not await asked.get()
        second.future.cancel()
        step.release()
        assert await asked.get()
        assert batcher.alive
    assert setup.metric("cancellations_total", when="running") == 2


async def test_after_an_abandoned_batch_the_next_one_runs_and_no_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = GatedModel()
    async with serving(batcher_setup(model)) as batcher:
        (gone,) = batcher.submit(["a1"])
        await model.next_batch()
        gone.future.cancel()
        kept = batcher.submit(["a2"])
        model.let_go(2)
        assert await results(kept) == ["A2"]
    assert caplog.records == []


async def test_a_job_whose_deadline_passed_never_reaches_the_model() -> None:
    model = GatedModel()
    setup = batcher_setup(model, max_jobs=2)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        late = batcher.submit(["a-late-1", "a-late-2", "a-late-3"], deadline=setup.clock.now + 5)
        jobs += batcher.submit(["a3", "a4"], deadline=setup.clock.now + 7)
        setup.clock.now += 6
        model.let_go(2)
        errors = await failures(late)
        assert await results(jobs) == ["A0", "A3", "A4"]
    assert [type(error) for error in errors] == [DeadlineExceeded] * 3
    assert len({id(error) for error in errors}) == 3
    assert model.batches == [["a0"], ["a3", "a4"]]
    assert setup.metric("rejections_total", reason="deadline_exceeded") == 3


async def test_a_deadline_that_is_over_at_the_door_fails_its_job_alone() -> None:
    model = GatedModel()
    model.let_go()
    setup = batcher_setup(model)
    async with serving(setup) as batcher:
        late = batcher.submit(["a1"], deadline=setup.clock.now)
        jobs = batcher.submit(["a2"])
        assert isinstance((await failures(late))[0], DeadlineExceeded)
        await results(jobs)
    assert model.batches == [["a2"]]


async def test_a_job_that_its_request_cancels_at_the_deadline_counts_as_late_and_not_as_left() -> None:
    model = GatedModel()
    setup = batcher_setup(model)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        (late,) = batcher.submit(["a1"], deadline=setup.clock.now + 5)
        setup.clock.now += 5
        late.future.cancel()
        model.let_go()
        await results(jobs)
    assert setup.metric("rejections_total", reason="deadline_exceeded") == 1
    assert setup.metric("cancellations_total", when="queued") == 0


@pytest.mark.parametrize("which", ["queued", "running"])
async def test_a_deadline_is_kept_while_the_model_is_busy(which: str) -> None:
    model = GatedModel()
    setup = batcher_setup(model, clock=RealClock())
    async with serving(setup) as batcher:
        running = batcher.submit(["a0"], deadline=time.monotonic() + (0.02 if which == "running" else 3600))
        await model.next_batch()
        queued = batcher.submit(["a1"], deadline=time.monotonic() + (0.02 if which == "queued" else 3600))
        late = running if which == "running" else queued
        assert isinstance((await failures(late))[0], DeadlineExceeded)
        assert batcher.num_queued == (0 if which == "queued" else 1)
        model.let_go(2)
        assert await results(queued if which == "running" else running)


async def test_a_job_that_has_ended_is_not_kept_until_its_deadline_or_its_turn() -> None:
    model = GatedModel()
    setup = batcher_setup(model)
    async with serving(setup) as batcher:
        ended = batcher.submit(["a0"], deadline=setup.clock.now + 3600)
        model.let_go()
        await results(ended)
        busy = batcher.submit(["a1"])
        await model.next_batch()
        cancelled = batcher.submit(["a2"])
        cancelled[0].future.cancel()
        futures = [weakref.ref(job.future) for job in (*ended, *cancelled)]
        del ended, cancelled
        await others_had_their_turn()
        gc.collect()
        assert [future() for future in futures] == [None, None]
        model.let_go()
        await results(busy)


# Failures


@pytest.mark.parametrize("error", [ValueError("broken"), StopIteration("stray"), Cancelled("for no reason")])
async def test_a_failing_batch_fails_each_job_with_its_own_error_and_the_next_one_runs(
    error: Exception,
) -> None:
    def fail_on_a(inputs: Sequence[str], cancelled: Callable[[], bool]) -> Sequence[str]:
        if inputs[0][0] == "a":
            raise error
        return inputs

    async with serving(batcher_setup(fail_on_a)) as batcher:
        errors = await failures(batcher.submit(["a1", "a2"]))
        assert [type(error) for error in errors] == [GenerationFailed, GenerationFailed]
        assert errors[0] is not errors[1]
        assert str(error) not in str(errors[0])
        assert await results(batcher.submit(["b"])) == ["b"]


@pytest.mark.parametrize("num_outputs", [1, 3])
async def test_a_wrong_number_of_outputs_is_a_failure(num_outputs: int) -> None:
    async with serving(batcher_setup(lambda inputs, cancelled: ["x"] * num_outputs)) as batcher:
        errors = await failures(batcher.submit(["a1", "a2"]))
    assert [type(error) for error in errors] == [GenerationFailed, GenerationFailed]


async def test_a_failure_that_nobody_reads_is_not_reported_as_a_leak() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    def fail(inputs: Sequence[str], cancelled: Callable[[], bool]) -> Sequence[str]:
        raise ValueError

    async with serving(batcher_setup(fail)) as batcher:
        jobs = batcher.submit(["a1", "a2"])
        with pytest.raises(GenerationFailed):
            await jobs[0].future
    del jobs
    assert complaints == []


async def test_a_batch_that_does_not_fit_runs_in_halves_and_only_what_fits_nowhere_fails() -> None:
    batches: list[list[str]] = []

    def fits_two_small(inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        batches.append(list(inputs))
        if len(inputs) > 2 or "a-huge" in inputs:
            raise OutOfMemory
        return [word.upper() for word in inputs]

    setup = batcher_setup(fits_two_small, max_jobs=8)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a1", "a2", "a3", "a-huge", "a5"])
        huge = jobs.pop(3)
        assert await results(jobs) == ["A1", "A2", "A3", "A5"]
        with pytest.raises(GenerationFailed, match="smaller size"):
            await huge.future
    assert [len(batch) for batch in batches] == [5, 2, 3, 1, 2, 1, 1]
    assert setup.metric("out_of_memory_splits_total") == 3
    assert setup.metric("batch_size_count") == 4  # those that ran: of 2, 1, 1 and 1
    assert setup.metric("batch_size_sum") == 5
    assert setup.metric("queue_wait_seconds_count") == 5


async def test_a_half_whose_clients_disconnected_is_not_run() -> None:
    model = GatedModel()

    def fits_one(inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        outputs = model(inputs, cancelled)
        if len(inputs) > 1:
            raise OutOfMemory
        return outputs

    async with serving(batcher_setup(fits_one)) as batcher:
        kept, gone = batcher.submit(["a1", "a2"])
        await model.next_batch()
        gone.future.cancel()
        model.let_go(2)
        assert await kept.future == "A1"
    assert model.batches == [["a1", "a2"], ["a1"]]


async def test_the_halves_run_after_the_memory_of_the_whole_was_given_back() -> None:
    class Tensor:
        pass

    tensors: list[weakref.ref[Tensor]] = []
    num_alive: list[int] = []

    def fits_one(inputs: Sequence[str], cancelled: Callable[[], bool]) -> Sequence[str]:
        num_alive.append(sum(tensor() is not None for tensor in tensors))
        activations = Tensor()
        tensors.append(weakref.ref(activations))
        if len(inputs) > 1:
            raise OutOfMemory
        return inputs

    async with serving(batcher_setup(fits_one)) as batcher:
        await results(batcher.submit(["a1", "a2"]))
    assert num_alive == [0, 0, 0]


# Drain, stop, death


async def test_drain_finishes_accepted_work_and_refuses_new() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model)) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        jobs += batcher.submit(["a1", "b1"])
        draining = asyncio.create_task(batcher.drain())
        await others_had_their_turn()
        with pytest.raises(NotReady, match="shutting down") as refusal:
            batcher.submit(["a2"])
        assert (refusal.value.retry_after_seconds or 0) >= 1
        assert not draining.done()
        model.let_go(3)
        await draining
        assert all(job.future.done() for job in jobs)
        assert await results(jobs) == ["A0", "A1", "B1"]


async def test_stop_drains_and_ends_the_loop() -> None:
    model = GatedModel()
    model.let_go(1)
    setup = batcher_setup(model)
    await setup.batcher.start()
    jobs = setup.batcher.submit(["a1", "a2"])
    await setup.batcher.stop()
    assert await results(jobs) == ["A1", "A2"]
    assert not setup.batcher.alive
    setup.thread.shutdown()


async def test_a_stop_that_is_cut_short_settles_the_remaining_jobs_and_frees_the_model() -> None:
    cancelled_at_the_end: list[bool] = []
    model = GatedModel()

    def run(inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        try:
            return model(inputs, cancelled)
        finally:
            cancelled_at_the_end.append(cancelled())

    setup = batcher_setup(run)
    await setup.batcher.start()
    jobs = setup.batcher.submit(["a1"])
    await model.next_batch()
    jobs += setup.batcher.submit(["b1"])
    stopping = asyncio.create_task(setup.batcher.stop())
    await others_had_their_turn()
    stopping.cancel()
    assert [type(error) for error in await failures(jobs)] == [NotReady, NotReady]
    model.let_go()
    setup.thread.shutdown()
    assert cancelled_at_the_end == [True]
    assert model.batches == [["a1"]]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_when_the_model_thread_dies_queued_jobs_fail_and_the_batcher_is_not_alive(
    error: BaseException,
) -> None:
    model = GatedModel()

    def die(inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        model(inputs, cancelled)
        raise error

    setup = batcher_setup(die)
    async with serving(setup) as batcher:
        running = batcher.submit(["a1"])
        await model.next_batch()
        queued = batcher.submit(["a2"])
        model.let_go()
        assert [type(error) for error in await failures([*running, *queued])] == [GenerationFailed, NotReady]
        assert not batcher.alive
        with pytest.raises(NotReady):
            batcher.submit(["a3"])
        assert batcher.num_queued == 0


async def test_when_the_model_thread_was_shut_down_jobs_fail_and_the_batcher_is_not_alive() -> None:
    setup = batcher_setup(GatedModel())
    async with serving(setup) as batcher:
        setup.thread.shutdown()
        assert [type(error) for error in await failures(batcher.submit(["a1", "b1"]))] == [NotReady, NotReady]
        assert not batcher.alive


async def test_when_the_loop_itself_breaks_jobs_fail_and_the_batcher_is_not_alive() -> None:
    setup = batcher_setup(GatedModel(), max_jobs="many")  # type: ignore[arg-type]
    async with serving(setup) as batcher:
        assert [type(error) for error in await failures(batcher.submit(["a1"]))] == [NotReady]
        assert not batcher.alive
