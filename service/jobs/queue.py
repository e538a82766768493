"""JobQueue: the jobs of all tenants that wait for a worker, in lists, and those that were given to one, in a
stream in Redis with a group of workers.

A worker that dies leaves its jobs in the group's list of pending entries, where another one finds them once
they have been idle for the length of a lease. A worker renews the leases of what it has.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.errors import ServiceError
from service.jobs import scripts
from service.jobs.record import JobOwner, error_to_json
from service.jobs.store import JobBounds
from service.metrics import Metrics
from service.storage.checksummed import JOB_REQUEST, JOB_RESULT, add_checksum, verify_checksum
from service.storage.client import translate_redis_errors
from service.storage.schema import (
    JOB_SECONDS,
    job_key,
    job_preview_key,
    job_request_key,
    job_result_key,
    jobs_key,
)

FORGET_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker has taken from the queue."""

    job_id: str
    entry: str


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at a job. `request` is None when there were too many, or it cannot be read."""

    job_id: str
    entry: str
    number: int  # of this run, see scripts.py
    attempts_before: int
    endpoint: str
    owner: JobOwner
    request: bytes | None


class JobQueue:
    """Each method may raise StoreUnavailable."""

    def __init__(
        self, redis: Redis, *, model: str, bounds: JobBounds, max_attempts: int, metrics: Metrics
    ) -> None:
        self.worker = f"worker-{secrets.token_hex(8)}"
        self.max_attempts = max_attempts
        self._redis = redis
        self.stream = jobs_key(model)
        self._bounds = bounds
        self._metrics = metrics
        self._take = redis.register_script(scripts.TAKE)
        self._size = redis.register_script(scripts.SIZE)
        self._start = redis.register_script(scripts.START)
        self._renew = redis.register_script(scripts.RENEW)
        self._progress = redis.register_script(scripts.PROGRESS)
        self._release = redis.register_script(scripts.RELEASE)
        self._finish = redis.register_script(scripts.FINISH)
        self._forget = redis.register_script(scripts.FORGET)

    async def create(self) -> None:
        """The stream and its group, unless they are there."""
        with translate_redis_errors(self._metrics):
            try:
                await self._redis.xgroup_create(self.stream, scripts.GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def take(self, max_jobs: int) -> list[Claim]:
        """Jobs that wait: of each API key the oldest first, and keys in fair turns by their weights."""
        with translate_redis_errors(self._metrics):
            found: Any = await self._take(keys=[self.stream], args=[self.worker, max_jobs])
        return [Claim(job_id.decode(), entry.decode()) for entry, (_, job_id) in found]

    async def reclaim(self, *, idle_seconds: float) -> list[Claim]:
        """All jobs of workers that have not renewed their leases for so long, oldest first."""
        claims, cursor = list[Claim](), "0-0"
        while True:
            with translate_redis_errors(self._metrics):
                found: Any = await self._redis.xautoclaim(
                    self.stream,
                    scripts.GROUP,
                    self.worker,
                    min_idle_time=int(1000 * idle_seconds),
                    start_id=cursor,
                )
            claims += _claims(found[1])
            cursor = found[0].decode()
            if cursor == "0-0":
                return claims

    async def attempts(self, claim: Claim) -> int:
        """How often the job has been started."""
        with translate_redis_errors(self._metrics):
            found: Any = await self._redis.hget(job_key(claim.job_id), "attempts")
        return int(found or 0)

    async def start(self, claim: Claim) -> Run | None:
        """None when the job has ended meanwhile."""
        keys = [job_key(claim.job_id), job_request_key(claim.job_id)]
        with translate_redis_errors(self._metrics):
            found = await self._start(keys=keys, args=[self.max_attempts])
        if not found:
            return None
        number, attempts_before, stored, fields = found
        record = dict(zip(fields[::2], fields[1::2], strict=True))
        return Run(
            job_id=claim.job_id,
            entry=claim.entry,
            number=number,
            attempts_before=attempts_before,
            endpoint=record[b"endpoint"].decode(),
            owner=JobOwner.from_json(record[b"caller"]),
            request=_verified(stored),
        )

    async def renew(self, entry: str) -> bool:
        """Whether this worker still has the job."""
        with translate_redis_errors(self._metrics):
            return bool(await self._renew(keys=[self.stream], args=[entry, self.worker]))

    async def report(self, run: Run, progress: float, preview: bytes | None) -> None:
        keys = [job_key(run.job_id), job_preview_key(run.job_id)]
        args: list[str | int | bytes] = [
            run.job_id,
            f"{progress:.4f}",
            preview or b"",
            self._bounds.result_seconds,
            run.number,
        ]
        with translate_redis_errors(self._metrics):
            await self._progress(keys=keys, args=args)

    async def release(self, run: Run) -> None:
        """Give the job back, to be started by any worker as if it had not been."""
        args: list[str | int] = [run.job_id, self.worker, run.number]
        with translate_redis_errors(self._metrics):
            await self._release(keys=[job_key(run.job_id), self.stream], args=args)

    async def succeed(self, run: Run, result: bytes, seconds: float) -> bool:
        """Whether this run is the one that the job's clients see."""
        return await self._finished(run, "succeeded", add_checksum(JOB_RESULT, result), seconds)

    async def fail(self, run: Run, error: ServiceError) -> bool:
        """The same with an error in place of the result."""
        return await self._finished(run, "failed", error_to_json(error).encode(), 0.0)

    async def size(self) -> tuple[int, float | None]:
        """How many jobs wait or run, and the seconds that one takes, if any was measured."""
        with translate_redis_errors(self._metrics):
            num_open = int(await self._size(keys=[self.stream]))
            seconds: Any = await self._redis.hget(JOB_SECONDS, self.stream)
        return num_open, None if seconds is None else float(seconds)

    async def forget_workers(self) -> None:
        """Those that were silent for an hour and have no jobs: each start of a service has its own name."""
        with translate_redis_errors(self._metrics):
            await self._forget(keys=[self.stream], args=[1000 * FORGET_SECONDS])

    async def _finished(self, run: Run, status: str, content: bytes, seconds: float) -> bool:
        bounds = self._bounds
        args: list[str | int | float | bytes] = [run.job_id, status, content, run.owner.tenant]
        args += [bounds.result_seconds, bounds.max_tenant_result_bytes, bounds.max_result_bytes, seconds]
        keys = [job_key(run.job_id), job_result_key(run.job_id)]
        with translate_redis_errors(self._metrics):
            return bool(await self._finish(keys=keys, args=[*args, run.number]))


def _claims(entries: Sequence[Any]) -> list[Claim]:
    """Entries that were deleted while they were pending have no fields."""
    return [Claim(fields[b"id"].decode(), entry.decode()) for entry, fields in entries if fields]


def _verified(stored: bytes | None) -> bytes | None:
    try:
        return None if stored is None else verify_checksum(JOB_REQUEST, stored)
    except ValueError:
        return None
