"""RequestTimeout: how long a request may take, from its arrival."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceeded, InvalidRequest
from service.http.error_handlers import error_response

HEADER = "X-Request-Timeout"
MAX_SECONDS = 24 * 3600


class RequestTimeout:
    """Middleware: 504 once the time that the client or the settings allow is over.

    Whatever the request waits for is cancelled: its body, its upload, its place in a queue, its part of a
    batch. A response that has begun is not cut off; a stream ends by the deadline of its jobs.
    """

    def __init__(self, app: ASGIApp, max_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self.max_seconds = max_seconds
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            seconds = allowed_seconds(Headers(scope=scope).get(HEADER), self.max_seconds)
        except InvalidRequest as error:
            await error_response(error)(scope, receive, send)
            return
        scope["state"]["deadline"] = self.clock() + seconds
        try:
            async with asyncio.timeout(seconds) as timeout:

                async def send_without_timeout(message: Message) -> None:
                    if not timeout.expired():
                        timeout.reschedule(None)
                    await send(message)

                await self.app(scope, receive, send_without_timeout)
        except TimeoutError:
            if not timeout.expired():
                raise
            late = DeadlineExceeded("The deadline passed before the result was there; allow more time.")
            await error_response(late)(scope, receive, send)


async def _deadline(
    request: Request,
    x_request_timeout: Annotated[
        Annotated[float, Field(ge=0.001, le=MAX_SECONDS)] | SkipJsonSchema[None],
        Header(description="Seconds, from the arrival of the request; then 504."),
    ] = None,
) -> float | None:
    """The header is declared for the OpenAPI document: the middleware has read it before the body came."""
    deadline: float | None = request.state.deadline
    return deadline


# When to give the request up, in seconds of `time.monotonic`, the batchers' clock; None for never.
DeadlineDep = Annotated[float | None, Depends(_deadline)]


def allowed_seconds(header: str | None, bound: float) -> float:
    """The shorter of what the header and the settings allow. InvalidRequest when the header is not a number
    of seconds.
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
    return min(seconds, bound)
