"""Uploads lie in temporary files until they are read; what the disk says to that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from service.errors import StoreUnavailable

RETRY_SECONDS = 10.0

log = structlog.stdlib.get_logger("atelier.http")


@contextmanager
def spooling() -> Iterator[None]:
    """Turns what the disk refuses inside into StoreUnavailable; the log has what it said."""
    try:
        yield
    except OSError as error:
        log.error("spool_error", error=str(error))
        raise StoreUnavailable(
            "The upload could not be kept while it came in: the service's disk is full or cannot be written. "
            "Try again later.",
            retry_after_seconds=RETRY_SECONDS,
        ) from error
