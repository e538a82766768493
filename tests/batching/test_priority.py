"""Two classes of jobs: which runs first, and that no job waits for ever."""

from __future__ import annotations

import pytest

from service.batching.priority import YIELDS_SECONDS, Priority
from service.errors import InvalidRequest, QueueFull
from tests.support.batcher import GatedModel, batcher_setup, results, serving

LOW = Priority.LOW


async def test_a_normal_job_passes_waiting_jobs_of_low_priority_of_its_group_and_of_others() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_jobs=2)) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        jobs += batcher.submit(["b1", "b2", "a1"], priority=LOW)
        jobs += batcher.submit(["a2"])
        model.let_go(3)
        await results(jobs)
    assert model.batches == [["a0"], ["a2", "a1"], ["b1", "b2"]]


async def test_a_low_job_that_has_yielded_long_enough_is_passed_no_more() -> None:
    model = GatedModel()
    setup = batcher_setup(model, max_jobs=1)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        jobs += batcher.submit(["low"], priority=LOW)
        setup.clock.now += YIELDS_SECONDS[LOW] - 1
        jobs += batcher.submit(["early"])
        setup.clock.now += 2
        jobs += batcher.submit(["late"])
        model.let_go(4)
        await results(jobs)
    assert model.batches == [["a0"], ["early"], ["low"], ["late"]]


async def test_low_priority_may_fill_half_of_the_queue_and_normal_all_of_it() -> None:
    model = GatedModel()
    setup = batcher_setup(model, max_queued=4)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        jobs += batcher.submit(["a1", "a2"], priority=LOW)
        with pytest.raises(QueueFull, match="at most 2 jobs of low priority and can take 0 more"):
            batcher.submit(["a3"], priority=LOW)
        with pytest.raises(InvalidRequest, match="3 jobs, and the queue holds at most 2 of low priority"):
            batcher.submit(["a", "a", "a"], priority=LOW)
        jobs += batcher.submit(["a4", "a5"])
        with pytest.raises(QueueFull, match="at most 4 jobs and can take 0 more"):
            batcher.submit(["a6"])
        model.let_go(3)
        await results(jobs)


async def test_a_queue_full_of_normal_jobs_takes_no_low_ones() -> None:
    model = GatedModel()
    setup = batcher_setup(model, max_queued=4)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        jobs += batcher.submit(["a1", "a2", "a3", "a4"])
        with pytest.raises(QueueFull):
            batcher.submit(["a5"], priority=LOW)
        model.let_go(2)
        await results(jobs)


async def test_even_a_queue_of_one_takes_low_priority() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_queued=1)) as batcher:
        jobs = batcher.submit(["a0"], priority=LOW)
        model.let_go(1)
        await results(jobs)
