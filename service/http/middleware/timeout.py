"""RequestTimeout: how long a request may take, from its arrival."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceeded, InvalidRequest

HEADER = "X-Request-Timeout"
MAX_SECONDS = 24 * 3600
PARAMETER: dict[str, Any] = {  # of the OpenAPI document
    "name": HEADER,
    "in": "header",
    "description": "Seconds, from the arrival of the request; then 504.",
    "schema": {"type": "number", "minimum": 0.001, "maximum": MAX_SECONDS},
}


class RequestTimeout:
    """Middleware: DeadlineExceeded once the time that the client or the settings allow is over.

    Whatever the request waits for is cancelled: its body, its upload, its jobs. A response that has begun is
    not cut off; a stream ends by the deadline of its jobs.
    """

    def __init__(self, app: ASGIApp, max_seconds: float | None) -> None:
        self.app = app
        self.max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seconds = allowed_seconds(Headers(scope=scope).get(HEADER), self.max_seconds)
        # By the batchers' clock.
        scope["state"]["deadline"] = None if seconds is None else time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds) as timeout:

                async def send_without_timeout(message: Message) -> None:
                    if not timeout.expired():
                        timeout.reschedule(None)
                    await send(message)

                await self.app(scope, receive, send_without_timeout)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            message = "The deadline passed before the result was there; allow more time."
            raise DeadlineExceeded(message) from error


def allowed_seconds(header: str | None, bound: float | None) -> float | None:
    """The shorter of what the header and the settings allow; None is no bound. InvalidRequest when the header
    is not a number of seconds.
    """
    if header is None:
        return bound
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidRequest(
            f"{HEADER} must be a number of seconds above 0 and at most {MAX_SECONDS}, such as 2.5.",
            param=HEADER,
        )
    return seconds if bound is None else min(seconds, bound)
