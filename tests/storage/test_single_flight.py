"""SingleFlight: one piece of work for all who wait, kept going exactly as long as one of them does."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from service.storage.single_flight import SingleFlight


class Work:
    def __init__(self) -> None:
        self.gate, self.started = asyncio.Event(), asyncio.Event()
        self.num_started = self.num_cancelled = 0

    async def __call__(self) -> int:
        self.num_started += 1
        self.started.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return self.num_started


async def test_work_runs_while_a_caller_waits_and_is_cancelled_after_the_last() -> None:
    single_flight, work = SingleFlight[str, int](), Work()
    waiting = [asyncio.create_task(single_flight.run("a", work)) for _ in range(2)]
    await work.started.wait()
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert work.num_cancelled == 0
    waiting[1].cancel()
    await asyncio.wait(waiting)
    work.gate.set()
    assert await single_flight.run("a", work) == 2
    assert work.num_cancelled == 1


async def test_a_caller_that_comes_while_abandoned_work_ends_starts_new_work() -> None:
    single_flight, work = SingleFlight[str, int](), Work()
    first = asyncio.create_task(single_flight.run("a", work))
    await work.started.wait()
    first.cancel()
    second = asyncio.create_task(single_flight.run("a", work))
    work.gate.set()
    assert await second == 2


async def test_different_keys_share_nothing_and_a_key_is_free_again_afterwards() -> None:
    single_flight, work = SingleFlight[str, int](), Work()
    work.gate.set()
    assert sorted(await asyncio.gather(*[single_flight.run(key, work) for key in "aab"])) == [1, 1, 2]
    assert work.num_started == 2
    assert await single_flight.run("a", work) == 3


async def test_an_error_reaches_all_waiting_callers() -> None:
    single_flight = SingleFlight[str, int]()

    async def fail() -> int:
        raise ValueError("no")

    results = await asyncio.gather(*[single_flight.run("a", fail) for _ in range(3)], return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3
    with pytest.raises(ValueError, match="no"):
        await single_flight.run("a", fail)


async def test_work_that_fails_after_its_last_caller_left_is_not_reported() -> None:
    single_flight, complaints = SingleFlight[str, int](), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        try:
            started.set()
            return await asyncio.Future[int]()
        except asyncio.CancelledError:
            raise ValueError("the queue was full as well") from None
        finally:
            ended.set()

    waiting = asyncio.create_task(single_flight.run("a", work))
    await started.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    await ended.wait()
    await asyncio.sleep(0)  # the task is done one turn of the loop after its last line
    del waiting  # its traceback holds the work
    gc.collect()
    assert complaints == []
