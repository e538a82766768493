"""JobStore: the jobs of a tenant in Redis, for its clients."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import structlog
from redis.asyncio import Redis

from service.errors import IdempotencyKeyReused, InvalidRequest, JobNotFound, QueueFull
from service.jobs import scripts
from service.jobs.record import (
    MAX_SHOWN_CHARS,
    Job,
    JobOwner,
    job_from_hash,
    job_id_of,
    job_not_found,
    require_job_id,
)
from service.metrics import Metrics
from service.storage.checksummed import JOB_REQUEST, JOB_RESULT, add_checksum, verify_checksum
from service.storage.client import translate_redis_errors
from service.storage.schema import (
    NO_TENANT,
    SEQUENCE,
    job_key,
    job_preview_key,
    job_request_key,
    job_result_key,
    jobs_index_key,
    jobs_key,
)

FIRST_GUESS_SECONDS = 1.0  # that a job takes, before any was measured
MAX_RETRY_SECONDS = 3600.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobBounds:
    """Of jobs that have not ended, and of the results of those that have."""

    max_jobs: int
    max_request_bytes: int
    max_result_bytes: int
    max_tenant_result_bytes: int
    result_seconds: int


@dataclass(frozen=True, slots=True)
class JobPage:
    jobs: tuple[Job, ...]
    has_more: bool


class JobStore:
    """The jobs of one tenant, at first of NO_TENANT; `of` gives those of another. Each method may raise
    StoreUnavailable, and those that take an ID JobNotFound: also for a job of another tenant.
    """

    def __init__(self, redis: Redis, *, model: str, bounds: JobBounds, metrics: Metrics) -> None:
        self.bounds = bounds
        self._redis = redis
        self._stream = jobs_key(model)
        self._tenant = NO_TENANT
        self._metrics = metrics
        self._submit = redis.register_script(scripts.SUBMIT)
        self._cancel = redis.register_script(scripts.CANCEL)
        self._list = redis.register_script(scripts.LIST)

    def of(self, tenant: str) -> JobStore:
        """The same store, showing the jobs of this tenant alone."""
        store = copy.copy(self)
        store._tenant = tenant
        return store

    async def submit(
        self,
        endpoint: str,
        request: bytes,
        owner: JobOwner,
        *,
        key: str | None = None,
        digest: str = "",
        webhook: str | None = None,
    ) -> Job:
        """The job, once it is where a crash does not lose it. QueueFull where there is no room. With the
        Idempotency-Key of a job that is still known, that job; IdempotencyKeyReused when its request had
        another `digest`. `webhook` is what webhooks/deliveries.py reads.
        """
        job_id = job_id_of(None if key is None else [owner.tenant, endpoint, key])
        bounds = self.bounds
        stored = add_checksum(JOB_REQUEST, request)
        keys = [
            job_key(job_id),
            job_request_key(job_id),
            self._stream,
            jobs_index_key(owner.tenant),
            SEQUENCE,
        ]
        args: list[str | int | bytes] = [job_id, stored, digest, owner.name]
        args += [bounds.max_jobs, bounds.max_request_bytes]
        args += ["tenant", owner.tenant, "caller", owner.to_json(), "endpoint", endpoint]
        args += [] if webhook is None else ["webhook", webhook]
        with translate_redis_errors(self._metrics):
            outcome, *found = await self._submit(keys=keys, args=args)
        if outcome == 2:
            raise IdempotencyKeyReused(
                "This Idempotency-Key was sent with another request, whose job there still is. Send the same "
                "request again, or choose a new key for a new one.",
                param="Idempotency-Key",
            )
        if outcome == 3:
            raise self._queue_full(int(found[0]), None if found[1] is None else float(found[1]))
        return await self.of(owner.tenant).get(job_id)

    async def get(self, job_id: str) -> Job:
        """The job as it is now."""
        require_job_id(job_id)
        (job,) = await self._read([job_id])
        if job is None:
            raise job_not_found(job_id)
        return job

    async def result(self, job_id: str) -> bytes | None:
        """What the request would have been answered; None where it is not kept (any more)."""
        with translate_redis_errors(self._metrics):
            stored = cast("bytes | None", await self._redis.get(job_result_key(job_id)))
        try:
            return None if stored is None else verify_checksum(JOB_RESULT, stored)
        except ValueError as error:
            log.error("job_result_damaged", job=job_id, reason=str(error))
            return None

    async def preview(self, job_id: str) -> bytes:
        """The latest preview of a job that runs, an image file."""
        await self.get(job_id)
        with translate_redis_errors(self._metrics):
            found = cast("bytes | None", await self._redis.get(job_preview_key(job_id)))
        if found is None:
            raise JobNotFound(
                "The job has no preview now: one is there while it runs, once the first step that shows "
                "something is done.",
                code="job_preview_not_found",
            )
        return found

    async def list(self, *, limit: int, after: str | None, order: Literal["asc", "desc"]) -> JobPage:
        """Up to `limit` jobs by creation, starting after `after`. InvalidRequest when that is unknown."""
        jobs: list[Job] = []
        cursor, ids = after, list[str]()
        while len(jobs) <= limit:
            with translate_redis_errors(self._metrics):
                found = await self._list(
                    keys=[jobs_index_key(self._tenant)], args=[cursor or "", limit + 1, order]
                )
            if found is None and cursor == after:
                raise InvalidRequest(
                    f"There is no job {(after or '')[:MAX_SHOWN_CHARS]!r} to continue after. Give the last "
                    "ID of the page before, or start again without `after`.",
                    param="after",
                )
            ids = [job_id.decode() for job_id in found or ()]
            if not ids:
                break
            jobs += [job for job in await self._read(ids) if job is not None]
            cursor = ids[-1]
        return JobPage(tuple(jobs[:limit]), has_more=len(jobs) > limit)

    async def cancel(self, job_id: str) -> Job:
        """The job, which stops at its next step when it runs; of one that succeeded the result is deleted."""
        await self.get(job_id)
        keys = [job_key(job_id), job_result_key(job_id)]
        with translate_redis_errors(self._metrics):
            was_open = await self._cancel(keys=keys, args=[job_id, self._tenant, self.bounds.result_seconds])
        if was_open:
            self._metrics.jobs.labels(outcome="cancelled").inc()
        return await self.get(job_id)

    async def _read(self, job_ids: Sequence[str]) -> Sequence[Job | None]:
        """None for one that does not exist, or not for this tenant."""
        with translate_redis_errors(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.hgetall(job_key(job_id))
                    pipe.exists(job_result_key(job_id))
                    pipe.exists(job_preview_key(job_id))
                found = await pipe.execute()
        records = zip(job_ids, found[::3], found[1::3], found[2::3], strict=True)
        return [
            job_from_hash(job_id, fields, has_result=bool(has_result), has_preview=bool(has_preview))
            if fields.get(b"tenant") == self._tenant.encode()
            else None
            for job_id, fields, has_result, has_preview in records
        ]

    def _queue_full(self, num_open: int, seconds: float | None) -> QueueFull:
        self._metrics.rejections.labels(queue="jobs", reason=QueueFull.code).inc()
        per_job = FIRST_GUESS_SECONDS if seconds is None else seconds
        wait = min(MAX_RETRY_SECONDS, max(1.0, num_open * per_job))
        return QueueFull(
            f"{num_open} jobs wait or run, and there is no room for this one: at most "
            f"{self.bounds.max_jobs} are accepted, with {self.bounds.max_request_bytes} bytes of requests. "
            f"Try again in {math.ceil(wait)} seconds.",
            retry_after_seconds=wait,
        )
