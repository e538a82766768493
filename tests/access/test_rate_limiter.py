"""The rate limiter: counted once for all replicas, refused without being counted, exact waits."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.asyncio import Redis

from service.access.rate_limiter import PAUSE_SECONDS, RateLimit, RateLimiter, Window
from service.metrics import Metrics
from service.storage.embedded_valkey.server import EmbeddedValkey
from tests.support.batcher import Clock

pytestmark = pytest.mark.slow

FIVE = RateLimit("acme/requests", 5)


async def taken(rates: RateLimiter, cost: int, rate: RateLimit = FIVE) -> bool:
    return (await rates.take(rate, cost))[0]


def admits(window: Window, cost: int, after_seconds: float) -> bool:
    """Whether the library lets `cost` in then: its rule, in its words."""
    if after_seconds < window.now_ends_seconds:
        before, left, now = window.num_before, window.before_ends_seconds - after_seconds, window.num_now
    else:
        before, left, now = window.num_now, window.now_ends_seconds + window.seconds - after_seconds, 0
    return math.floor(before * max(0.0, left) / window.seconds) + now + cost <= window.limit


@given(
    limit=st.integers(1, 1000),
    before=st.integers(0, 1000),
    now=st.integers(0, 1000),
    elapsed=st.floats(0, 59.999),
    cost=st.integers(1, 1000),
)
def test_the_wait_ends_as_soon_as_the_request_fits(
    limit: int, before: int, now: int, elapsed: float, cost: int
) -> None:
    left = 60 - elapsed
    window = Window(limit, 60, before, left if before else 0.0, now, left)
    assume(max(before, now, cost) <= limit)
    wait = window.wait_seconds(cost)
    assert admits(window, cost, wait)
    assert wait == 0 or not admits(window, cost, wait - 0.01)
    assert window.remaining == max(n for n in range(limit + 1) if n == 0 or admits(window, n, 0))


async def test_replicas_count_together_and_keys_apart(redis: Redis) -> None:
    one, other = RateLimiter(redis, metrics=Metrics()), RateLimiter(redis, metrics=Metrics())
    assert [await taken(rates, 1) for rates in (one, other, one, other, one, other, one)] == [True] * 5 + [
        False
    ] * 2
    assert (await other.look(FIVE)).remaining == 0
    assert await taken(one, 5, RateLimit("beta/requests", 5))
    keys = await redis.keys("atelier:rate:*")
    assert keys == await redis.keys()
    for key in keys:
        assert await redis.ttl(key) > 0


@pytest.mark.parametrize("shares", [True, False])
async def test_what_is_refused_is_not_counted(redis: Redis, shares: bool) -> None:
    rates = RateLimiter(redis if shares else None, metrics=Metrics())
    assert await taken(rates, 3)
    assert [await taken(rates, 3) for _ in range(5)] == [False] * 5
    assert (await rates.look(FIVE)).remaining == 2
    assert await taken(rates, 2)
    _, window = await rates.take(FIVE, 1)
    assert (window.limit, window.remaining) == (5, 0)
    assert 0 < window.wait_seconds(1) <= window.wait_seconds(5) <= 120


@pytest.mark.parametrize("shares", [True, False])
async def test_a_request_fits_when_the_wait_is_over_and_not_before(redis: Redis, shares: bool) -> None:
    rates = RateLimiter(redis if shares else None, metrics=Metrics(), window_seconds=1)
    assert await taken(rates, 5)
    asked = time.monotonic()
    is_taken, window = await rates.take(FIVE, 2)
    assert not is_taken
    began, wait = time.monotonic(), window.wait_seconds(2)
    while not is_taken:
        await asyncio.sleep(0.001)
        waited = time.monotonic() - began
        is_taken = await taken(rates, 2)
        assert is_taken or waited < wait
    assert time.monotonic() - asked > wait - 0.01


async def test_without_redis_this_process_counts_alone_and_later_together_again(
    valkey: EmbeddedValkey, redis: Redis
) -> None:
    clock, metrics = Clock(), Metrics()
    rates = RateLimiter(redis, metrics=metrics, clock=clock)
    assert await taken(rates, 5)
    await valkey.stop()
    assert await taken(rates, 4)
    assert not await taken(rates, 2)
    assert metrics.registry.get_sample_value("atelier_store_errors_total") == 1  # asked once, then left alone
    await valkey.start()
    assert not await taken(rates, 2)
    clock.now += PAUSE_SECONDS
    assert not await taken(rates, 1)  # Redis still knows of five
    assert (await rates.look(FIVE)).remaining == 0
    assert (await rates.look(RateLimit("beta/requests", 5))).remaining == 5


async def test_a_redis_that_hangs_delays_one_request_and_not_each(valkey: EmbeddedValkey) -> None:
    metrics = Metrics()
    async with Redis.from_url(valkey.url, socket_timeout=1000) as patient:
        rates = RateLimiter(patient, metrics=metrics, clock=Clock())
        assert await taken(rates, 1)
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                assert [await taken(rates, 1) for _ in range(6)] == [True] * 5 + [False]
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
    assert metrics.registry.get_sample_value("atelier_store_errors_total") == 1
