"""How we reach Redis: bounded waits, few retries, and one translation of its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import StoreUnavailable

if TYPE_CHECKING:
    from service.metrics import Metrics

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0  # a picture of some megabytes over a slow network, forced to a slow disk
RETRY_AFTER_SECONDS = 2.0
MAX_CONNECTIONS = 32
log = structlog.get_logger(__name__)


def connect(url: str) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://`; nothing is sent yet. ValueError for another URL.

    A lost connection is retried for a third of a second, which outlasts a restart of the embedded server; a
    silent server is not, so that no call takes much longer than ANSWER_SECONDS.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=ANSWER_SECONDS,  # for a free connection
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        retry=Retry(
            ExponentialBackoff(cap=0.1, base=0.02), retries=5, supported_errors=(RedisConnectionError,)
        ),
        protocol=2,
    )
    return Redis.from_pool(pool)


@contextmanager
def translate_redis_errors(metrics: Metrics) -> Iterator[None]:
    """Turns what Redis raises inside into StoreUnavailable; counts it, and logs what Redis said."""
    try:
        yield
    except RedisError as error:
        count_error(error, metrics)
        raise StoreUnavailable(_sentence(error), retry_after_seconds=RETRY_AFTER_SECONDS) from error


def count_error(error: RedisError, metrics: Metrics) -> None:
    metrics.store_errors.inc()
    log.error("store_error", kind=type(error).__name__, error=str(error))


def _sentence(error: RedisError) -> str:
    if isinstance(error, OutOfMemoryError):
        return "The style store is full. Delete styles that are no longer needed, or give Redis more memory."
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return "The style store cannot be reached. Try again shortly; styles used recently keep working."
    # How a Redis answers whose disk is full; the second is what ours then does, see styles/room.py.
    if str(error).startswith(("MISCONF", "NOREPLICAS")):
        return (
            "The style store takes no changes now: its disk is full or cannot be written. Make room there; "
            "the styles that it has keep working."
        )
    return "The style store refused the operation. The service's log says why; try again once that is cured."
