"""API keys take turns: one key's flood does not make another wait, and batches stay as full as they were."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.job_queue import FairTurns, Job, Owner, form_batch
from service.batching.priority import YIELDS_SECONDS, Priority
from service.errors import QueueFull
from tests.support.batcher import GatedModel, batcher_setup, results, serving

FLOOD, OTHER, THIRD = Owner("flood"), Owner("other"), Owner("third")


async def test_a_single_image_joins_the_next_batch_past_another_keys_flood() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_jobs=4, max_queued=16)) as batcher:
        jobs = batcher.submit(["a0"], owner=FLOOD)
        await model.next_batch()
        jobs += batcher.submit([f"a{i}" for i in range(1, 13)], owner=FLOOD)
        jobs += batcher.submit(["a-other"], owner=OTHER)
        model.let_go(5)
        await results(jobs)
    assert model.batches[1] == ["a-other", "a1", "a2", "a3"]
    assert [len(batch) for batch in model.batches] == [1, 4, 4, 4, 1]


async def test_a_single_image_of_another_size_waits_for_one_batch_of_the_flood() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_jobs=4, max_queued=32)) as batcher:
        jobs = batcher.submit([f"a{i}" for i in range(12)], owner=FLOOD)
        await model.next_batch()
        for number in range(2):  # and its next one, too
            jobs += batcher.submit([f"b{number}"], owner=OTHER)
            model.let_go()
            assert await model.next_batch() == [f"b{number}"]
            model.let_go()
            assert (await model.next_batch())[0].startswith("a")
        model.let_go(4)
        await results(jobs)


async def test_two_floods_of_different_sizes_have_batches_in_turn() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_jobs=2, max_queued=32)) as batcher:
        jobs = batcher.submit([f"a{i}" for i in range(7)], owner=FLOOD)
        await model.next_batch()
        jobs += batcher.submit([f"b{i}" for i in range(6)], owner=OTHER)
        model.let_go(7)
        await results(jobs)
    assert "".join(batch[0][0] for batch in model.batches) == "abababa"


async def test_a_key_of_weight_three_gets_three_images_for_one_of_another() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_jobs=1, max_queued=32)) as batcher:
        jobs = batcher.submit(["a"], owner=THIRD)
        await model.next_batch()
        jobs += batcher.submit(["a-one"] * 8, owner=OTHER)
        jobs += batcher.submit(["a-three"] * 8, owner=Owner("heavy", weight=3))
        model.let_go(17)
        await results(jobs)
    assert [batch[0] for batch in model.batches[1:9]].count("a-three") == 6


async def test_turns_are_not_saved_up_in_a_pause() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_jobs=1, max_queued=32)) as batcher:
        model.let_go(9)
        await results(batcher.submit(["a"] * 8, owner=FLOOD))  # `other` takes no turn meanwhile
        jobs = batcher.submit(["a-other"], owner=OTHER)
        await results(jobs)
        for _ in range(9):
            await model.next_batch()
        jobs = batcher.submit(["a-third"], owner=THIRD)
        await model.next_batch()
        jobs += batcher.submit(["a-other"] * 3, owner=OTHER)
        jobs += batcher.submit(["a-flood"] * 3, owner=FLOOD)
        model.let_go(7)
        await results(jobs)
    assert [batch[0] for batch in model.batches[10:]] == ["a-other", "a-flood"] * 3


async def test_low_priority_yields_to_other_keys_and_takes_its_turn_after_that() -> None:
    model = GatedModel()
    setup = batcher_setup(model, max_jobs=1, max_queued=32)
    async with serving(setup) as batcher:
        jobs = batcher.submit(["a0"], owner=FLOOD)
        await model.next_batch()
        jobs += batcher.submit(["a-low"], owner=OTHER, priority=Priority.LOW)
        jobs += batcher.submit([f"a{i}" for i in range(1, 9)], owner=FLOOD)
        for _ in range(3):
            model.let_go()
            assert (await model.next_batch())[0] != "a-low"
        setup.clock.now += YIELDS_SECONDS[Priority.LOW]
        model.let_go()
        assert await model.next_batch() == ["a-low"]
        model.let_go(6)
        await results(jobs)


async def test_a_queue_that_one_key_filled_still_takes_the_share_of_another() -> None:
    model = GatedModel()
    async with serving(batcher_setup(model, max_queued=6)) as batcher:
        jobs = batcher.submit(["a0"], owner=FLOOD)
        await model.next_batch()
        jobs += batcher.submit(["a"] * 6, owner=FLOOD)
        with pytest.raises(QueueFull):
            batcher.submit(["a"], owner=FLOOD)
        jobs += batcher.submit(["a"] * 3, owner=OTHER)
        with pytest.raises(QueueFull, match="can take 0 more"):
            batcher.submit(["a"], owner=OTHER)
        jobs += batcher.submit(["a"] * 2, owner=THIRD)
        with pytest.raises(QueueFull):
            batcher.submit(["a"], owner=THIRD)
        model.let_go(6)
        await results(jobs)


owners = st.sampled_from([FLOOD, OTHER, THIRD, Owner("heavy", weight=3)])


@given(st.lists(st.tuples(owners, st.sampled_from("ab")), min_size=1, max_size=40), st.integers(1, 5))
def test_a_batch_starts_with_the_key_that_has_run_least_for_its_weight_and_every_job_runs_once(
    asked: list[tuple[Owner, str]], max_jobs: int
) -> None:
    """All owners wait from the start, so none has turns from a pause: least run means next."""
    with closing(asyncio.new_event_loop()) as loop:
        queue = [
            Job(i, group, None, float(i), loop.create_future(), rank=float(i), owner=owner)
            for i, (owner, group) in enumerate(asked)
        ]
    turns, ran, num_ran = FairTurns(), list[int](), Counter[Owner]()
    while queue:
        batch = form_batch(turns.order(queue, now=1000.0), lambda _: max_jobs)
        turns.start(batch)
        first = batch[0].owner
        least = min(num_ran[job.owner] / job.owner.weight for job in queue)
        assert num_ran[first] / first.weight == pytest.approx(least)
        num_ran.update(job.owner for job in batch)
        ran += [job.input for job in batch]
        queue = [job for job in queue if job not in batch]
    assert sorted(ran) == list(range(len(asked)))
