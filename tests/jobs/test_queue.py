"""Jobs in a real Valkey: who runs one, how often, what is kept, and how much of it."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from service.errors import IdempotencyKeyReused, InvalidRequest, JobNotFound, QueueFull, ServiceError
from service.jobs import scripts
from service.jobs.queue import Claim, JobQueue, Run
from service.jobs.record import JobOwner, JobStatus
from service.jobs.store import JobBounds, JobStore
from service.metrics import Metrics
from service.storage.schema import JOBS_OPEN, job_request_key

ACME, BETA = JobOwner("acme", "acme"), JobOwner("beta", "beta")
DRAW = "/v1/images/generations"
BOUNDS: dict[str, Any] = {
    "max_jobs": 4,
    "max_request_bytes": 1000,
    "max_result_bytes": 100_000,
    "max_tenant_result_bytes": 50_000,
    "result_seconds": 60,
}


class Replica:
    """A process: a store for its clients, and its worker's queue."""

    def __init__(self, redis: Redis, max_attempts: int = 3, **bounds: int) -> None:
        known = JobBounds(**(BOUNDS | bounds))
        self.metrics = Metrics()
        self.store = JobStore(redis, model="tiny", bounds=known, metrics=self.metrics)
        self.acme = self.store.of("acme")
        self.queue = JobQueue(
            redis, model="tiny", bounds=known, max_attempts=max_attempts, metrics=self.metrics
        )

    async def start(self, claim: Claim) -> Run:
        run = await self.queue.start(claim)
        assert run is not None
        return run

    async def draw(self, result: bytes) -> str:
        """The next job, drawn; its ID."""
        (claim,) = await self.queue.take(1)
        assert await self.queue.succeed(await self.start(claim), result, 1.0)
        return claim.job_id


async def test_a_job_goes_from_queued_to_a_result_and_leaves_the_queue_empty(redis: Redis) -> None:
    replica = Replica(redis)
    job = await replica.store.submit(DRAW, b"{}", ACME)
    assert (job.status, job.attempts, job.started) == (JobStatus.QUEUED, 0, None)
    (claim,) = await replica.queue.take(8)
    run = await replica.start(claim)
    assert (run.request, run.owner, run.endpoint, run.attempts_before) == (b"{}", ACME, DRAW, 0)
    await replica.queue.report(run, 0.5, b"preview")
    job = await replica.acme.get(job.id)
    assert (job.status, job.progress, job.has_preview) == (JobStatus.RUNNING, 0.5, True)
    assert await replica.acme.preview(job.id) == b"preview"
    assert await replica.queue.succeed(run, b"the result", 2.0)
    job = await replica.acme.get(job.id)
    assert (job.status, job.progress, job.attempts) == (JobStatus.SUCCEEDED, 1.0, 1)
    assert await replica.acme.result(job.id) == b"the result"
    assert await replica.queue.size() == (0, 2.0)
    assert not await redis.exists(job_request_key(job.id), JOBS_OPEN)


async def test_keys_take_turns_by_their_weights_and_one_job_does_not_wait_for_all_of_another_key(
    redis: Redis,
) -> None:
    replica = Replica(redis, max_jobs=100)
    heavy = JobOwner("heavy", "heavy", weight=2)
    names: dict[str, str] = {}

    async def submit(owner: JobOwner, num_jobs: int) -> None:
        for number in range(num_jobs):
            job = await replica.store.submit(DRAW, b"{}", owner)
            names[job.id] = f"{owner.name}{number}"

    async def taken(num_jobs: int) -> list[str]:
        return [names[claim.job_id] for claim in await replica.queue.take(num_jobs)]

    await submit(ACME, 9)
    assert await taken(3) == ["acme0", "acme1", "acme2"]
    await submit(BETA, 2)
    await submit(heavy, 5)
    assert await replica.queue.size() == (16, None)
    assert await taken(3) == ["beta0", "heavy0", "heavy1"]
    assert await taken(4) == ["acme3", "beta1", "heavy2", "heavy3"]
    await submit(BETA, 1)  # although it had no job left it has had its turn
    assert await taken(9) == ["acme4", "beta0", "heavy4", "acme5", "acme6", "acme7", "acme8"]
    assert await replica.queue.size() == (17, None)


async def test_one_that_is_cancelled_while_it_waits_is_not_taken(redis: Redis) -> None:
    replica = Replica(redis)
    first, second = [await replica.store.submit(DRAW, b"{}", ACME) for _ in range(2)]
    assert (await replica.acme.cancel(first.id)).status is JobStatus.CANCELLED
    assert [claim.job_id for claim in await replica.queue.take(8)] == [second.id]
    assert await replica.queue.size() == (1, None)


async def test_of_two_workers_that_run_one_job_the_later_one_is_seen(redis: Redis) -> None:
    first, second = Replica(redis), Replica(redis)
    job = await first.store.submit(DRAW, b"{}", ACME)
    (claim,) = await first.queue.take(1)
    early = await first.start(claim)
    assert await second.queue.reclaim(idle_seconds=60) == []  # its lease has not ended
    assert await second.queue.reclaim(idle_seconds=0) == [claim]
    assert not await first.queue.renew(claim.entry)
    late = await second.start(claim)
    assert late.attempts_before == 1
    await first.queue.report(early, 0.9, None)
    assert not await first.queue.succeed(early, b"early", 1.0)
    assert (await first.acme.get(job.id)).progress == 0
    assert await second.queue.succeed(late, b"late", 1.0)
    assert await second.queue.succeed(late, b"late", 1.0)  # sent again, as the reply was lost
    assert not await first.queue.fail(early, ServiceError("too late"))
    assert await first.acme.result(job.id) == b"late"


async def test_a_job_that_kills_its_workers_is_given_up_and_one_that_was_released_is_not(
    redis: Redis,
) -> None:
    replica = Replica(redis, max_attempts=2)
    job = await replica.store.submit(DRAW, b"{}", ACME)
    (claim,) = await replica.queue.take(1)
    for _ in range(5):
        await replica.queue.release(await replica.start(claim))
        assert (await replica.acme.get(job.id)).status is JobStatus.QUEUED
    assert await replica.queue.attempts(claim) == 0
    assert await Replica(redis).queue.reclaim(idle_seconds=3600) == [claim]  # at once, however long the lease
    for attempts in range(2):
        run = await replica.start(claim)
        assert (run.attempts_before, run.request) == (attempts, b"{}")
    run = await replica.start(claim)
    assert (run.attempts_before, run.request) == (2, None)
    assert await replica.queue.fail(run, QueueFull("Why it failed.", param="n"))
    job = await replica.acme.get(job.id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (type(job.error), job.error.message, job.error.param) == (QueueFull, "Why it failed.", "n")


async def test_what_was_cancelled_is_not_started_and_what_runs_is_lost_to_its_worker(redis: Redis) -> None:
    replica = Replica(redis)
    queued, running = [await replica.store.submit(DRAW, b"{}", ACME) for _ in range(2)]
    claims = await replica.queue.take(8)
    run = await replica.start(claims[1])
    for job in (queued, running):
        assert (await replica.acme.cancel(job.id)).status is JobStatus.CANCELLED
    assert await replica.queue.start(claims[0]) is None
    assert not await replica.queue.renew(claims[1].entry)
    assert not await replica.queue.succeed(run, b"too late", 1.0)
    assert await replica.acme.result(running.id) is None
    assert await replica.queue.size() == (0, None)


async def test_a_tenant_sees_its_own_jobs_alone(redis: Redis) -> None:
    replica = Replica(redis)
    mine, theirs = [await replica.store.of(owner.tenant).submit(DRAW, b"{}", owner) for owner in (ACME, BETA)]
    acme = replica.acme
    for refused in (acme.get(theirs.id), acme.cancel(theirs.id), acme.preview(theirs.id), acme.get("job_x")):
        with pytest.raises(JobNotFound):
            await refused
    assert [job.id for job in (await acme.list(limit=9, after=None, order="desc")).jobs] == [mine.id]
    assert (await replica.store.of("beta").get(theirs.id)).status is JobStatus.QUEUED


async def test_jobs_are_listed_page_by_page_and_the_forgotten_are_left_out(redis: Redis) -> None:
    replica = Replica(redis)
    ids = [(await replica.store.submit(DRAW, b"{}", ACME)).id for _ in range(4)]
    await redis.delete(f"atelier:job:{ids[1]}")
    page = await replica.acme.list(limit=2, after=None, order="asc")
    assert ([job.id for job in page.jobs], page.has_more) == ([ids[0], ids[2]], True)
    page = await replica.acme.list(limit=2, after=ids[2], order="asc")
    assert ([job.id for job in page.jobs], page.has_more) == ([ids[3]], False)
    with pytest.raises(InvalidRequest, match="to continue after"):
        await replica.acme.list(limit=2, after="job_x", order="asc")


async def test_a_full_queue_refuses_with_the_time_to_wait_but_no_key_for_anothers_sake(redis: Redis) -> None:
    replica = Replica(redis)
    for _ in range(4):
        await replica.store.submit(DRAW, b"{}", ACME)
    with pytest.raises(QueueFull, match="4 jobs wait or run") as refused:
        await replica.store.submit(DRAW, b"{}", ACME)
    assert refused.value.retry_after_seconds == 4  # of a second each, before any was measured
    for _ in range(2):  # its half
        await replica.store.of("beta").submit(DRAW, b"{}", BETA)
    with pytest.raises(QueueFull):
        await replica.store.submit(DRAW, b"{}", BETA)
    await replica.draw(b"result")
    assert replica.metrics.registry.get_sample_value(
        "atelier_rejections_total", {"queue": "jobs", "reason": "queue_full"}
    )
    small = Replica(redis, max_jobs=100, max_request_bytes=200)
    with pytest.raises(QueueFull, match="with 200 bytes of requests"):
        await small.store.submit(DRAW, b"x" * 200, ACME)


async def test_an_idempotency_key_names_its_job_for_as_long_as_there_is_one(redis: Redis) -> None:
    store = Replica(redis).acme
    first = await store.submit(DRAW, b"{}", ACME, key="a", digest="1")
    assert await store.submit(DRAW, b"{}", ACME, key="a", digest="1") == first
    with pytest.raises(IdempotencyKeyReused):
        await store.submit(DRAW, b"{}", ACME, key="a", digest="2")
    others = [
        await Replica(redis).store.of("beta").submit(DRAW, b"{}", BETA, key="a", digest="1"),
        await store.submit("/v1/images/edits", b"{}", ACME, key="a", digest="1"),
        await store.submit(DRAW, b"{}", ACME, digest="1"),
    ]
    assert len({first.id, *(job.id for job in others)}) == 4


async def test_results_are_bounded_by_tenant_and_in_all_and_the_oldest_go_first(redis: Redis) -> None:
    replica = Replica(redis, max_result_bytes=2500, max_tenant_result_bytes=2000)
    beta = replica.store.of("beta")

    async def drawn(owner: JobOwner) -> str:
        await replica.store.of(owner.tenant).submit(DRAW, b"{}", owner)
        return await replica.draw(b"x" * 700)

    old, middle = await drawn(ACME), await drawn(ACME)
    assert (await replica.acme.get(old)).status is JobStatus.SUCCEEDED
    newest = await drawn(ACME)  # 2100 bytes
    assert (await replica.acme.get(old)).status is JobStatus.EXPIRED
    theirs = [await drawn(BETA) for _ in range(2)]  # 2800 in all: of acme, which has as many
    kept = {job: await replica.acme.result(job) is not None for job in (old, middle, newest, *theirs)}
    assert sum(kept.values()) == 3
    assert not kept[old]
    assert kept[theirs[1]]
    await beta.cancel(theirs[1])
    assert (await beta.get(theirs[1])).status is JobStatus.EXPIRED
    usage = await redis.hgetall("atelier:job_result_bytes")
    stored = [await redis.strlen(key) for key in await redis.keys("atelier:job_result:*")]
    assert sum(map(int, usage.values())) == sum(stored)


async def test_a_worker_that_is_silent_and_has_no_jobs_is_forgotten(redis: Redis) -> None:
    old, new = Replica(redis), Replica(redis)
    await old.queue.create()
    await old.store.submit(DRAW, b"{}", ACME)
    await old.queue.take(1)
    await new.queue.create()
    await new.store.submit(DRAW, b"{}", ACME)
    await new.draw(b"result")
    await new.queue.forget_workers()
    assert len(await redis.xinfo_consumers("atelier:jobs:tiny", "workers")) == 2
    forget = redis.register_script(scripts.FORGET)
    await forget(keys=["atelier:jobs:tiny"], args=[-1])
    (left,) = await redis.xinfo_consumers("atelier:jobs:tiny", "workers")
    assert left["name"] == old.queue.worker.encode()  # with its job
