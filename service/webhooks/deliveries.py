"""Deliveries: webhooks that are to be sent, in Redis, until they have arrived or are given up.

    atelier:webhook:JOB     hash: target, attempts, the latest failure; of the job that has ended
    atelier:webhooks_due    sorted set of jobs, by when their webhook is to be sent (next)
    atelier:webhooks_dead   sorted set of those that are given up, by when

A job that ends puts its webhook here in the same step (jobs/scripts.py). Whoever takes one that is due has it
for the length of a lease; if it dies, the webhook is due again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from service.jobs.record import Job, job_from_hash
from service.metrics import Metrics
from service.storage.client import translate_redis_errors
from service.storage.lua import NOW
from service.storage.schema import WEBHOOKS_DEAD, WEBHOOKS_DUE, job_key, webhook_key
from service.webhooks.target import WebhookTarget

DEAD_SECONDS = 7 * 24 * 3600
MAX_DEAD = 10_000

# KEYS: due; ARGV: the most, the lease in milliseconds; returns the jobs
_TAKE = (
    NOW
    + """
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, job in ipairs(found) do
  redis.call('ZADD', KEYS[1], now + ARGV[2], job)
end
return found
"""
)
# KEYS: due, record; ARGV: job, milliseconds until the next attempt, the failure
_RETRY = (
    NOW
    + """
redis.call('HINCRBY', KEYS[2], 'attempts', 1)
redis.call('HSET', KEYS[2], 'failure', ARGV[3])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
"""
)
# KEYS: due, record, dead; ARGV: job, the failure, seconds for which it is kept, the most that are
_BURY = (
    NOW
    + """
redis.call('HINCRBY', KEYS[2], 'attempts', 1)
redis.call('HSET', KEYS[2], 'failure', ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[3], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - 1000 * ARGV[3])
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - ARGV[4])
"""
)
# KEYS: due, record, dead; ARGV: job; returns whether there was one
_REPLAY = (
    NOW
    + """
if redis.call('ZREM', KEYS[3], ARGV[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 0 then
  return 0
end
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[2], 'attempts', 0)
redis.call('ZADD', KEYS[1], now, ARGV[1])
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """`job` is None once it is forgotten."""

    job_id: str
    target: WebhookTarget
    attempts: int
    failure: str | None
    job: Job | None


class Deliveries:
    """Each method may raise StoreUnavailable."""

    def __init__(self, redis: Redis, *, metrics: Metrics) -> None:
        self._redis = redis
        self._metrics = metrics
        self._take = redis.register_script(_TAKE)
        self._retry = redis.register_script(_RETRY)
        self._bury = redis.register_script(_BURY)
        self._replay = redis.register_script(_REPLAY)

    async def take(self, max_deliveries: int, *, lease_seconds: float) -> list[Delivery]:
        """Those that are due, for this caller to send within the length of the lease."""
        with translate_redis_errors(self._metrics):
            found = await self._take(keys=[WEBHOOKS_DUE], args=[max_deliveries, int(1000 * lease_seconds)])
        return await self._read([job_id.decode() for job_id in found])

    async def dead(self) -> list[Delivery]:
        """Those that are given up, oldest first."""
        with translate_redis_errors(self._metrics):
            found: Any = await self._redis.zrange(WEBHOOKS_DEAD, 0, -1)
        return await self._read([job_id.decode() for job_id in found])

    async def remove(self, job_id: str) -> None:
        """It has arrived."""
        with translate_redis_errors(self._metrics):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.zrem(WEBHOOKS_DUE, job_id)
                pipe.delete(webhook_key(job_id))
                await pipe.execute()

    async def retry(self, job_id: str, seconds: float, failure: str) -> None:
        keys = [WEBHOOKS_DUE, webhook_key(job_id)]
        with translate_redis_errors(self._metrics):
            await self._retry(keys=keys, args=[job_id, int(1000 * seconds), failure])

    async def bury(self, job_id: str, failure: str) -> None:
        """Give it up: into the list of dead letters."""
        keys = [WEBHOOKS_DUE, webhook_key(job_id), WEBHOOKS_DEAD]
        with translate_redis_errors(self._metrics):
            await self._bury(keys=keys, args=[job_id, failure, DEAD_SECONDS, MAX_DEAD])

    async def replay(self, job_id: str) -> bool:
        """Whether it was among the dead letters: it is sent again."""
        keys = [WEBHOOKS_DUE, webhook_key(job_id), WEBHOOKS_DEAD]
        with translate_redis_errors(self._metrics):
            return bool(await self._replay(keys=keys, args=[job_id]))

    async def _read(self, job_ids: Sequence[str]) -> list[Delivery]:
        with translate_redis_errors(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.hgetall(webhook_key(job_id))
                    pipe.hgetall(job_key(job_id))
                found = await pipe.execute()
        deliveries = []
        for job_id, record, fields in zip(job_ids, found[::2], found[1::2], strict=True):
            if not record:
                await self.remove(job_id)
                continue
            failure = record.get(b"failure")
            # With a result, whether it is still kept or not: what is sent again must be the same.
            job = job_from_hash(job_id, fields, has_result=True, has_preview=False) if fields else None
            deliveries.append(
                Delivery(
                    job_id,
                    WebhookTarget.from_json(record[b"target"]),
                    int(record.get(b"attempts", 0)),
                    None if failure is None else failure.decode(),
                    job,
                )
            )
        return deliveries
