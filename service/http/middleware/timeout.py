"""How long a client is willing to wait, from the moment its request arrived."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Header, Request
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceeded, InvalidRequest
from service.http.error_handlers import error_response

HEADER = "X-Request-Timeout"
MAX_SECONDS = 24 * 3600


class RequestTimeout:
    """Middleware: 504 once the time the client or the settings allow is over, wherever the request is then.

    Whatever it waits for is cancelled: its body, its upload, its place in a queue, its part of a batch. A
    response that has begun is not cut off; a stream ends by the deadline of its jobs.
    """

    def __init__(
        self, app: ASGIApp, allowed_seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app = app
        self.allowed_seconds = allowed_seconds
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            seconds = shorter(self.allowed_seconds, asked_seconds(Headers(scope=scope).get(HEADER)))
        except InvalidRequest as error:
            await error_response(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["deadline"] = None if seconds is None else self.clock() + seconds
        try:
            async with asyncio.timeout(seconds) as bound:

                async def begun(message: Message) -> None:
                    if not bound.expired():
                        bound.reschedule(None)
                    await send(message)

                await self.app(scope, receive, begun)
        except TimeoutError:
            if not bound.expired():
                raise
            await error_response(too_late())(scope, receive, send)


async def deadline(
    request: Request,
    x_request_timeout: Annotated[
        Annotated[float, Field(ge=0.001, le=MAX_SECONDS)] | SkipJsonSchema[None],
        Header(description="Seconds, from the arrival of the request; then 504."),
    ] = None,
) -> float | None:
    """Dependency: when to give the request up, in seconds of `time.monotonic`, the batchers' clock.

    The header is here to be documented; the middleware has read it before the body came.
    """
    found: float | None = request.scope["state"]["deadline"]
    return found


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The deadline passed before the result was there; allow more time.")


def asked_seconds(header: str | None) -> float | None:
    """The header's number of seconds, None when there is no header; InvalidRequest when it is no such."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidRequest(
            f"{HEADER} must be a number of seconds above 0 and at most {MAX_SECONDS}, such as 2.5.",
            param=HEADER,
        )
    return seconds


def shorter(first: float | None, second: float | None) -> float | None:
    """The smaller of two bounds of which None is no bound."""
    given = [each for each in (first, second) if each is not None]
    return min(given, default=None)
