"""EventStream: a response of server-sent events that keeps the connection open and ends in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import ClassVar

import structlog
from fastapi import Response
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from service.errors import ClientDisconnected, ServiceError
from service.http.disconnect import left
from service.http.error_handlers import body_of, unexpected_error
from service.http.middleware.telemetry import RequestTrace

log = structlog.stdlib.get_logger("atelier.http")


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    content: BaseModel

    def encode(self) -> bytes:
        return format_sse_event(event=self.name, data_str=self.content.model_dump_json(exclude_none=True))


class EventStream(Response):
    """Sends what `events` yields until it ends or the client leaves; either way `close` is called.

    An error of `events` becomes an `error` event, since the status has long been sent. After each
    `ping_seconds` without an event a comment is sent: proxies close connections on which nothing moves.
    """

    media_type = "text/event-stream"
    # nginx, for one, would hold events back until they fill its buffer.
    HEADERS: ClassVar[dict[str, str]] = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

    def __init__(
        self,
        events: AsyncGenerator[Event],
        *,
        close: Callable[[], None],
        ping_seconds: float,
        account: RequestTrace,
    ) -> None:
        super().__init__(headers=self.HEADERS)
        del self.headers["Content-Length"]  # nobody knows yet
        self.events = events
        self.close = close
        self.ping_seconds = ping_seconds
        self.account = account

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(part: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": more})

        leaving = asyncio.create_task(left(receive))
        coming = asyncio.create_task(self._next())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not leaving.done():
                await asyncio.wait(
                    {coming, leaving}, timeout=self.ping_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if not coming.done():
                    await say(KEEPALIVE_COMMENT)
                elif (part := coming.result()) is not None:
                    coming = asyncio.create_task(self._next())
                    await say(part)
                else:
                    break
            if leaving.done():
                self.account.fields["failure"] = ClientDisconnected.code
            await say(b"", more=False)
        finally:
            leaving.cancel()
            coming.cancel()
            self.close()
            await asyncio.gather(leaving, coming, return_exceptions=True)
            await self.events.aclose()

    async def _next(self) -> bytes | None:
        """The next event, or the error that is the last one; None when there is no more."""
        try:
            event = await anext(self.events, None)
        except ServiceError as error:
            return self._failed(error)
        except Exception:
            log.exception("stream_failed")
            return self._failed(unexpected_error())
        return None if event is None else event.encode()

    def _failed(self, error: ServiceError) -> bytes:
        self.account.fields["failure"] = error.code
        return format_sse_event(event="error", data_str=body_of(error))
