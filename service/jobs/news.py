"""JobNews: tells those who wait for a job in this process that it has changed, wherever that happened."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.storage.schema import JOB_NEWS

RECONNECT_SECONDS = 0.5
log = structlog.get_logger(__name__)


class JobNews:
    """One subscription for all that wait. What happens while Redis is away is not told: once it is back, all
    who wait are told to look.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def of(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job has changed; clear it before you look."""
        event = asyncio.Event()
        self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def listen(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                async for job_id in self._messages():
                    for event in self._waiting.get(job_id, ()):
                        event.set()
            except RedisError as error:
                log.warning("job_news_interrupted", error=str(error))
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _messages(self) -> AsyncIterator[str]:
        async with aclosing(self._redis.pubsub(ignore_subscribe_messages=True)) as subscription:
            await subscription.subscribe(JOB_NEWS)
            for events in list(self._waiting.values()):
                for event in events:
                    event.set()
            while True:
                message = await subscription.get_message(timeout=1.0)
                if message is not None:
                    yield message["data"].decode().partition(" ")[0]
