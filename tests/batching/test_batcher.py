"""What runs together, what is admitted, what is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.batcher import Batcher
from service.batching.job_queue import Job, form_batch
from service.errors import InvalidRequest, NotReady, QueueFull
from tests.support.batcher import Clock, GatedModel, batcher_setup, others_had_their_turn, results, serving

# Batches


async def test_what_queued_up_while_the_model_was_busy_is_one_batch() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model)) as batcher:
        first = batcher.submit(["a0"])
        assert await model.next_batch() == ["a0"]
        others = [*batcher.submit(["a1"]), *batcher.submit(["a2", "a3"])]
        model.let_go(2)
        assert await results([*first, *others]) == ["A0", "A1", "A2", "A3"]
    assert model.batches == [["a0"], ["a1", "a2", "a3"]]
    assert [job.num_jobs_in_batch for job in (*first, *others)] == [1, 3, 3, 3]


async def test_jobs_beyond_the_bound_of_their_group_wait_for_the_next_batch() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_jobs=2)) as batcher:
        jobs = batcher.submit(["a1", "a2", "a3"])
        model.let_go(2)
        await results(jobs)
    assert model.batches == [["a1", "a2"], ["a3"]]


async def test_a_group_that_cannot_hold_even_one_job_is_still_tried_one_by_one() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_jobs=0)) as batcher:
        jobs = batcher.submit(["a1", "a2"])
        model.let_go(2)
        assert await results(jobs) == ["A1", "A2"]


async def test_the_oldest_job_names_the_group_so_that_none_starves() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model)) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        jobs += batcher.submit(["a1", "b1", "a2", "b2"])
        model.let_go()
        assert await model.next_batch() == ["a1", "a2"]
        jobs += batcher.submit(["a3", "a4"])
        model.let_go(3)
        await results(jobs)
    assert model.batches == [["a0"], ["a1", "a2"], ["b1", "b2"], ["a3", "a4"]]


async def test_a_batch_forms_when_the_model_is_free_of_the_other_batcher_too() -> None:
    model = GatedModel()
    shared = batcher_setup(model)
    extraction: Batcher[str, str] = Batcher(
        model,
        name="extract",
        group=lambda _: "",
        max_jobs=lambda _: 1,
        max_queued=8,
        executor=shared.thread,
        metrics=shared.metrics,
    )
    await extraction.start()
    async with serving(shared) as batcher:
        extracted = extraction.submit(["style"])
        assert await model.next_batch() == ["style"]
        early = batcher.submit(["a1"])
        await others_had_their_turn()
        late = batcher.submit(["a2"])
        model.let_go(2)
        assert await results([*extracted, *early, *late]) == ["STYLE", "A1", "A2"]
        await extraction.stop()
    assert model.batches == [["style"], ["a1", "a2"]]


words = st.lists(st.sampled_from("abc"), max_size=20)


@given(words, st.integers(-1, 6))
def test_a_formed_batch_holds_the_oldest_job_one_group_the_order_and_the_bound(
    groups: list[str], bound: int
) -> None:
    with closing(asyncio.new_event_loop()) as loop:
        queue = [Job(i, group, None, float(i), loop.create_future()) for i, group in enumerate(groups)]
        asked: list[Hashable] = []
        batch = form_batch(queue, lambda group: asked.append(group) or bound)  # type: ignore[func-returns-value]
    assert bool(batch) == bool(queue)
    assert batch[:1] == queue[:1]
    assert asked == groups[:1]
    assert {job.group for job in batch} <= set(groups[:1])
    assert [job.input for job in batch] == sorted(job.input for job in batch)
    assert len(batch) == min(max(1, bound), groups.count(groups[0]) if groups else 0)
    left_out = [job for job in queue if job not in batch and batch and job.group == batch[0].group]
    assert all(job.input > batch[-1].input for job in left_out)


@given(words, st.integers(1, 5))
async def test_each_job_gets_its_own_output_whatever_was_batched(groups: list[str], bound: int) -> None:
    model = GatedModel()
    model.let_go(len(groups))
    asks = [f"{group}{i}" for i, group in enumerate(groups)]
    async with serving(batcher_setup(model, max_jobs=bound, max_queued=len(asks))) as batcher:
        assert await results(batcher.submit(asks)) == [ask.upper() for ask in asks]
    assert all(len(batch) <= bound and len({ask[0] for ask in batch}) == 1 for batch in model.batches)


# UploadLimiter


async def test_a_request_is_queued_whole_or_not_at_all() -> None:
    model = GatedModel()
    setup = batcher_setup(model, max_queued=3)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        jobs += batcher.submit(["a1", "a2"])
        with pytest.raises(QueueFull, match="at most 3 jobs and can take 1 more"):
            batcher.submit(["a3", "a4"])
        assert batcher.num_queued == 2
        jobs += batcher.submit(["a5"])
        model.let_go(2)
        await results(jobs)
    assert model.batches == [["a0"], ["a1", "a2", "a5"]]
    assert setup.metric("rejections_total", reason="queue_full") == 2


async def test_a_request_that_never_fits_the_queue_is_invalid() -> None:
    async with serving(batcher_setup(GatedModel(), max_queued=3)) as batcher:
        with pytest.raises(InvalidRequest, match="4 jobs, and the queue holds at most 3; ask for fewer"):
            batcher.submit(["a", "a", "a", "a"])


async def test_retry_after_is_the_queued_work_at_the_measured_rate() -> None:
    clock, model = Clock(), GatedModel()

    def three_seconds_a_job(inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        clock.now += 3.0 * len(inputs)
        return model(inputs, cancelled)

    setup = batcher_setup(three_seconds_a_job, clock=clock)
    async with serving(setup) as batcher:
        model.let_go()
        await results(batcher.submit(["a", "a"]))
        await model.next_batch()
        jobs = batcher.submit(["a"])
        await model.next_batch()
        waits = []
        for _ in range(2):
            jobs += batcher.submit(["a"] * 4)
            assert batcher.queued_seconds == pytest.approx(3.0 * batcher.num_queued)
            with pytest.raises(QueueFull) as refusal:
                batcher.submit(["a"] * 8)
            waits.append(refusal.value.retry_after_seconds)
        assert waits == [pytest.approx(12.0), pytest.approx(24.0)]
        assert setup.metric("queue_depth") == 8
        assert setup.metric("queued_work_seconds") == pytest.approx(24.0)
        model.let_go(3)
        await results(jobs)
    assert setup.metric("queue_depth") == 0
    assert setup.metric("queued_work_seconds") == 0


async def test_the_rate_follows_the_newest_batches_and_a_new_group_starts_from_the_slowest() -> None:
    clock, seconds = Clock(), 4.0

    def run(inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        clock.now += seconds * len(inputs)
        return list(inputs)

    model = GatedModel()

    def busy_on_z(inputs: Sequence[str], cancelled: Callable[[], bool]) -> Sequence[str]:
        return model(inputs, cancelled) if inputs[0] == "z" else run(inputs, cancelled)

    async with serving(batcher_setup(busy_on_z, clock=clock)) as batcher:
        await results(batcher.submit(["a"]))
        seconds = 8.0
        await results(batcher.submit(["a"]))
        jobs = batcher.submit(["z"])
        await model.next_batch()
        jobs += batcher.submit(["a"])
        assert 4.0 < batcher.queued_seconds < 8.0
        before = batcher.queued_seconds
        jobs += batcher.submit(["b"])
        assert batcher.queued_seconds == pytest.approx(2 * before)
        model.let_go()
        await results(jobs)


async def test_retry_after_knows_that_a_batch_takes_less_than_its_jobs_alone() -> None:
    clock, model = Clock(), GatedModel()

    def a_second_and_a_tenth_for_each_more(inputs: Sequence[str], cancelled: Callable[[], bool]) -> list[str]:
        clock.now += 0.9 + 0.1 * len(inputs)
        return model(inputs, cancelled)

    setup = batcher_setup(a_second_and_a_tenth_for_each_more, clock=clock, max_queued=9)
    async with serving(setup) as batcher:
        model.let_go(2)
        await results(batcher.submit(["a"] * 4))
        await results(batcher.submit(["a"]))  # alone: must not raise what four are estimated at
        for _ in range(2):
            await model.next_batch()
        jobs = batcher.submit(["a"])
        await model.next_batch()
        jobs += batcher.submit(["a"] * 9)
        assert batcher.queued_seconds == pytest.approx(1.3 + 1.3 + 1.0)
        with pytest.raises(QueueFull) as refusal:
            batcher.submit(["a"])
        assert refusal.value.retry_after_seconds == pytest.approx(3.6)  # the running one took its second
        model.let_go(4)
        await results(jobs)


async def test_retry_after_is_at_least_a_second_and_known_before_anything_was_measured() -> None:
    clock, model = Clock(), GatedModel()
    async with serving(batcher_setup(model, clock=clock, max_queued=1)) as batcher:
        jobs = batcher.submit(["a"])
        await model.next_batch()
        jobs += batcher.submit(["a"])
        with pytest.raises(QueueFull) as refusal:
            batcher.submit(["a"])
        assert refusal.value.retry_after_seconds == 2.0  # one runs, one waits, a second is the guess for each
        model.let_go(2)
        await results(jobs)
        clock.now += 0.1
        model.let_go()
        await results(batcher.submit(["b"]))
        await batcher.drain()
        with pytest.raises(NotReady) as draining:
            batcher.submit(["b"])
        assert draining.value.retry_after_seconds == 1.0


async def test_retry_after_counts_what_is_left_of_the_batch_that_runs() -> None:
    clock, model = Clock(), GatedModel()
    async with serving(batcher_setup(model, clock=clock, max_queued=2)) as batcher:
        measured = batcher.submit(["a"])
        await model.next_batch()
        clock.now += 4.0
        model.let_go()
        await results(measured)
        assert batcher.running_seconds == 0
        jobs = batcher.submit(["a", "a"])
        await model.next_batch()
        jobs += batcher.submit(["a", "a"])
        waits = []
        for seconds in (0.0, 5.0, 5.0):  # the last time longer than was expected
            clock.now += seconds
            with pytest.raises(QueueFull) as refusal:
                batcher.submit(["a"])
            waits.append(refusal.value.retry_after_seconds)
        assert waits == [pytest.approx(seconds) for seconds in (16.0, 11.0, 8.0)]
        model.let_go(2)
        await results(jobs)


async def test_retry_after_counts_what_other_batchers_have_the_thread_do() -> None:
    model = GatedModel()
    setup = batcher_setup(model, max_queued=1)
    other: Batcher[str, str] = Batcher(
        model, name="extract", group=lambda word: word[0], max_jobs=lambda _: 1, max_queued=3,
        executor=setup.thread, metrics=setup.metrics, clock=setup.clock,
    )  # fmt: skip
    async with serving(setup) as batcher:
        await other.start()
        jobs = batcher.submit(["a"])
        await model.next_batch()
        jobs += [*other.submit(["x", "x", "x"]), *batcher.submit(["a"])]
        with pytest.raises(QueueFull) as refusal:
            batcher.submit(["a"])
        assert refusal.value.retry_after_seconds == 5.0  # all are taken for a second each
        model.let_go(5)
        await results(jobs)
        await other.stop()


async def test_before_its_start_a_batcher_takes_no_jobs() -> None:
    setup = batcher_setup(GatedModel())
    assert not setup.batcher.alive
    with pytest.raises(NotReady):
        setup.batcher.submit(["a"])
    assert setup.metric("rejections_total", reason="not_ready") == 1
    await setup.batcher.stop()
    setup.thread.shutdown()


# Metrics


async def test_waits_and_batch_sizes_are_measured() -> None:
    model = GatedModel()
    setup = batcher_setup(model)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"])
        await model.next_batch()
        jobs += batcher.submit(["a1", "a2"])
        setup.clock.now += 4
        model.let_go(2)
        await results(jobs)
    assert [job.started_at for job in jobs] == [1000.0, 1004.0, 1004.0]
    assert setup.metric("queue_wait_seconds_count") == 3
    assert setup.metric("queue_wait_seconds_sum") == 8
    assert setup.metric("batch_size_count") == 2
    assert setup.metric("batch_size_sum") == 3
