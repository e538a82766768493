"""RateLimiter: the requests and images of each API key in the last minute, over all replicas."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage, SlidingWindowCounterSupport
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.metrics import Metrics

WINDOW_SECONDS = 60
# The longest that a request waits for a Redis that hangs, and how long it is then left alone.
REPLY_TIMEOUT_SECONDS = 0.5
PAUSE_SECONDS = 5.0
CLOCK_SECONDS = 0.002  # Redis counts times in milliseconds
PREFIX = "atelier:rate"
T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The most of something, such as the requests of one API key, in one window."""

    name: str  # of the count: letters, digits and . _ - / only
    limit: int


@dataclass(frozen=True, slots=True)
class Window:
    """A count at this moment. The previous window counts by the share of it that is still within a minute."""

    limit: int
    seconds: int  # a window's length
    num_before: int
    before_ends_seconds: float  # until the window before no longer counts
    num_now: int
    now_ends_seconds: float  # until the current window becomes the one before

    @property
    def remaining(self) -> int:
        num_carried = math.floor(self.num_before * self.before_ends_seconds / self.seconds)
        return max(0, self.limit - num_carried - self.num_now)

    def wait_seconds(self, cost: int) -> float:
        """Until `cost` (at most the limit) is available, if nothing else is requested before."""
        if cost <= self.remaining:
            return 0.0
        max_count = self.limit - cost  # at which the request fits
        if self.num_now <= max_count:
            return self.before_ends_seconds - self._share(max_count - self.num_now, self.num_before)
        return self.now_ends_seconds + self.seconds - self._share(max_count, self.num_now)

    def _share(self, num_left: int, count: int) -> float:
        """How long before its end a window of `count` begins to count as `num_left`, rounded down."""
        return self.seconds * (num_left + 1) / count - CLOCK_SECONDS


class RateLimiter:
    """Sliding windows of the `limits` library: in Redis by the clock of Redis; without one, in this process.

    When Redis fails or hangs, this process counts alone, from zero, and tries Redis again after
    PAUSE_SECONDS: until then the limits hold per replica. The alternatives are to admit everything while the
    store has trouble, or to refuse images that need no store.
    """

    def __init__(
        self,
        redis: Redis | None,
        *,
        metrics: Metrics,
        window_seconds: int = WINDOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._seconds = window_seconds
        self._clock = clock
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = None if redis is None else SlidingWindowCounterRateLimiter(_storage(redis))
        self._next_try = -math.inf

    async def take(self, rate: RateLimit, cost: int) -> tuple[bool, Window]:
        """Whether `cost` was available, and was counted; and the window afterwards."""

        async def ask(limiter: SlidingWindowCounterRateLimiter) -> tuple[bool, Window]:
            is_taken = await limiter.hit(self._rule(rate), rate.name, cost=cost)
            return is_taken, await self._window(limiter, rate)

        return await self._ask(ask)

    async def look(self, rate: RateLimit) -> Window:
        """The window at this moment; nothing is counted."""
        return await self._ask(lambda limiter: self._window(limiter, rate))

    async def _ask(self, ask: Callable[[SlidingWindowCounterRateLimiter], Awaitable[T]]) -> T:
        if self._shared is not None and self._clock() >= self._next_try:
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                    return await ask(self._shared)
            except (RedisError, TimeoutError) as error:
                self._metrics.store_errors.inc()
                self._next_try = self._clock() + PAUSE_SECONDS
                log.warning("rates_counted_alone", kind=type(error).__name__, error=str(error))
        return await ask(self._local)

    async def _window(self, limiter: SlidingWindowCounterRateLimiter, rate: RateLimit) -> Window:
        storage = limiter.storage
        assert isinstance(storage, SlidingWindowCounterSupport)
        num_before, before_ends, num_now, now_forgotten = await storage.get_sliding_window(
            self._rule(rate).key_for(rate.name), self._seconds
        )
        # A window is remembered for one more, as the one before.
        now_ends = max(0.0, now_forgotten - self._seconds)
        return Window(rate.limit, self._seconds, num_before, before_ends, num_now, now_ends)

    def _rule(self, rate: RateLimit) -> RateLimitItemPerSecond:
        return RateLimitItemPerSecond(rate.limit, self._seconds)


def _storage(redis: Redis) -> RedisStorage:
    # The library requires a URL, and ignores it when it is given a connection pool.
    return RedisStorage(
        "redis://",
        implementation="redispy",
        key_prefix=PREFIX,
        connection_pool=redis.connection_pool,  # type: ignore[arg-type]  # documented, and left out of its type
    )
