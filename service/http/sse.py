"""EventStream: a response of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import ClassVar, Generic, Protocol, TypeVar

import structlog
from fastapi import Response
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from service.errors import ClientDisconnected, ServiceError
from service.http.dependencies import wait_for_disconnect
from service.http.error_handlers import error_json, unexpected_error
from service.stage_timer import RequestTrace

T = TypeVar("T")
log = structlog.stdlib.get_logger(__name__)


class Event(Protocol):
    """A pydantic model whose `type` is the event's name."""

    @property
    def type(self) -> str: ...

    def model_dump_json(self, *, exclude_none: bool = ...) -> str: ...


class EventStream(Response, Generic[T]):
    """Sends an event for each of `updates` until they end or the client disconnects; either way
    `close` is called.

    An error of `updates` becomes an `error` event, since the status has long been sent. After each
    `ping_seconds` without an event a comment is sent: proxies close connections that stay silent.
    """

    media_type = "text/event-stream"
    # nginx, for one, would hold events back until they fill its buffer.
    HEADERS: ClassVar[dict[str, str]] = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

    def __init__(
        self,
        updates: AsyncGenerator[T],
        to_event: Callable[[T], Event],
        close: Callable[[], None],
        *,
        ping_seconds: float,
        trace: RequestTrace,
    ) -> None:
        super().__init__(headers=self.HEADERS)
        del self.headers["Content-Length"]  # not known yet
        self.updates = updates
        self.to_event = to_event
        self.close = close
        self.ping_seconds = ping_seconds
        self.trace = trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_part(part: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": more})

        disconnect = asyncio.create_task(wait_for_disconnect(receive))
        coming = asyncio.create_task(self._next())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while not disconnect.done():
                await asyncio.wait(
                    {coming, disconnect}, timeout=self.ping_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if not coming.done():
                    await send_part(KEEPALIVE_COMMENT)
                elif (part := coming.result()) is not None:
                    coming = asyncio.create_task(self._next())
                    await send_part(part)
                else:
                    break
            if disconnect.done():  # no last part: a stream that was cut off is no response to keep
                self.trace.fields["failure"] = ClientDisconnected.code
            else:
                await send_part(b"", more=False)
        finally:
            disconnect.cancel()
            coming.cancel()
            self.close()
            await asyncio.gather(disconnect, coming, return_exceptions=True)
            await self.updates.aclose()

    async def _next(self) -> bytes | None:
        """The next event, or the error that is the last one; None when there are no more."""
        try:
            update = await anext(self.updates, None)
            if update is None:
                return None
            event = self.to_event(update)
            return format_sse_event(event=event.type, data_str=event.model_dump_json(exclude_none=True))
        except ServiceError as error:
            return self._error_event(error)
        except Exception:
            log.exception("stream_failed")
            return self._error_event(unexpected_error())

    def _error_event(self, error: ServiceError) -> bytes:
        self.trace.fields["failure"] = error.code
        return format_sse_event(event="error", data_str=error_json(error))
