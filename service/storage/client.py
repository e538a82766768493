"""The Redis client: bounded waits, few retries, and one translation of its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import StoreUnavailable
from service.metrics import Metrics

CONNECT_TIMEOUT_SECONDS = 1.0
REPLY_TIMEOUT_SECONDS = 3.0  # some megabytes over a slow network, written to a slow disk
RETRY_AFTER_SECONDS = 2.0
MAX_CONNECTIONS = 32
CANCEL_AGAIN_SECONDS = 0.5
StoreState: TypeAlias = Literal["ready", "read_only", "unavailable"]
T = TypeVar("T")
log = structlog.get_logger(__name__)


class _RetryUnlessSilent(Retry):
    """Retries a lost connection. One to a server that accepts it and then says nothing is not lost, although
    redis-py raises its ConnectionError for that, too: from a TimeoutError.
    """

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[[Exception], Any] | Callable[[Exception, int], Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        def is_lost(error: Exception) -> bool:
            is_silent = isinstance(error.__cause__, RedisTimeoutError)
            return not is_silent and (is_retryable is None or is_retryable(error))

        return await super().call_with_retry(do, fail, is_lost, with_failure_count)


def connect(url: str) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://`; nothing is sent yet. ValueError for another URL.

    A lost connection is retried for a third of a second, which outlasts a restart of the embedded server; a
    silent server is not, so that no call takes much longer than REPLY_TIMEOUT_SECONDS.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=REPLY_TIMEOUT_SECONDS,  # for a free connection
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        retry=_RetryUnlessSilent(
            ExponentialBackoff(cap=0.1, base=0.02), retries=5, supported_errors=(RedisConnectionError,)
        ),
        protocol=2,
    )
    return Redis.from_pool(pool)


async def cancel_until_ended(*tasks: asyncio.Task[Any]) -> None:
    """Returns once all have ended: redis-py may lose a cancellation that comes while it connects."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)


@contextmanager
def translate_redis_errors(metrics: Metrics) -> Iterator[None]:
    """Raises StoreUnavailable for an error of Redis, which is counted and logged."""
    try:
        yield
    except RedisError as error:
        count_error(error, metrics)
        raise StoreUnavailable(_message(error), retry_after_seconds=RETRY_AFTER_SECONDS) from error


def refuses_changes(error: RedisError) -> bool:
    """Whether this is the reply of a Redis that reads and does not write: its memory or its disk is full (the
    embedded one says the former for both), or it is a replica.
    """
    return isinstance(error, OutOfMemoryError | ReadOnlyError) or str(error).startswith(
        ("MISCONF", "NOREPLICAS")
    )


async def store_state(redis: Redis, metrics: Metrics) -> StoreState:
    """What the store does now, which the metric shows, too. Asked with a write that changes nothing, which is
    refused as any other would be.
    """
    state: StoreState = "ready"
    try:
        await redis.setrange("atelier:probe", 0, b"")
    except RedisError as error:
        state = "read_only" if refuses_changes(error) else "unavailable"
        if state == "unavailable":
            count_error(error, metrics)
    metrics.store_read_only.set(state == "read_only")
    return state


def count_error(error: RedisError, metrics: Metrics) -> None:
    metrics.store_errors.inc()
    log.error("store_error", kind=type(error).__name__, error=str(error))


def _message(error: RedisError) -> str:
    if isinstance(error, OutOfMemoryError):
        return (
            "The style store is full. Delete styles that are no longer needed, or give it more memory or, if "
            "its disk is full, free some space; existing styles keep working."
        )
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return "The style store cannot be reached. Try again shortly; styles used recently keep working."
    if refuses_changes(error):
        return (
            "The style store accepts no changes now: its disk is full or cannot be written. Free some space; "
            "existing styles keep working."
        )
    return "The style store refused the operation. The service's log says why; try again once that is fixed."
