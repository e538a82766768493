"""BoundedProtocol: uvicorn's HTTP/1.1 protocol with bounds on headers, on silence and on connections.

uvicorn's own protocol reads a header of any length before any application code runs, and waits for the rest
of a request for ever. What is refused here gets the service's error body and a closed connection.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import (
    HeaderTooLarge,
    InvalidRequest,
    RequestTimedOut,
    ServiceError,
    TooManyConnections,
)
from service.http.error_handlers import error_json
from service.metrics import Metrics

# Refused connections come by the thousand: one log line for all of each interval.
LOG_INTERVAL_SECONDS = 10.0
RETRY_SECONDS = 1.0

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    max_connections: int
    max_header_bytes: int
    header_timeout_seconds: float  # from the first moment of a connection, or byte of a request, to its end
    silence_timeout_seconds: float  # without a byte of a body from the client, or taken of a response


class _RefusedConnections:
    """Counts connections over the limit, and logs them once an interval."""

    def __init__(self) -> None:
        self._num_since = 0
        self._logged_at = -LOG_INTERVAL_SECONDS

    def count(self, max_connections: int) -> None:
        self._num_since += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_SECONDS:
            log.warning("connections_refused", num_refused=self._num_since, max_connections=max_connections)
            self._num_since, self._logged_at = 0, now


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `_deadline` is the time of the loop at which the client has been silent too long."""

    def __init__(
        self,
        *args: Any,
        limits: ConnectionLimits,
        metrics: Metrics,
        refused: _RefusedConnections,
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self._limits = limits
        self._metrics = metrics
        self._refused = refused
        self._in_header = True
        self._header_bytes = 0
        self._framing_bytes = 0  # since the last byte of a body: trailers, the frames of chunks
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refused.count(self._limits.max_connections)
            self._refuse(
                TooManyConnections(
                    "The service has too many open connections; try again shortly.",
                    retry_after_seconds=RETRY_SECONDS,
                )
            )
            return
        self._expect(self._limits.header_timeout_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_header:
            if not self._header_bytes:  # the first byte of a request, perhaps on a connection that was idle
                self._expect(self._limits.header_timeout_seconds)
            self._header_bytes += len(data)
        else:
            self._framing_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._in_header:
            self._expect(self._limits.silence_timeout_seconds)
            if self._framing_bytes > self._limits.max_header_bytes:
                self._refuse(self._header_too_large())
        elif self._header_bytes > self._limits.max_header_bytes:
            self._refuse(self._header_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_header:  # uvicorn would add trailers to the headers of the request
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_header = False
        self._framing_bytes = 0
        self._header_bytes = 0
        num_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if num_bytes > self._limits.max_header_bytes:
            self._refuse(self._header_too_large())
            return
        num_hosts = sum(name == b"host" for name, _ in self.headers)
        if num_hosts > 1 or (num_hosts == 0 and self.parser.get_http_version() != "1.0"):
            self._refuse(
                InvalidRequest(f"The request has {num_hosts} Host headers; it must have one.", param="Host")
            )
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_header = True
        self._deadline = None
        if not self.transport.is_closing():
            super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect(self._limits.silence_timeout_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._deadline = None

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for bytes that are not HTTP."""
        self._refuse(InvalidRequest("These bytes are not an HTTP/1.1 request.", code="malformed_request"))

    def _expect(self, seconds: float) -> None:
        """Something has to come from the client within so many seconds."""
        self._deadline = self.loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """One timer a connection, set anew only when it fires: a request costs none."""
        self._timer = None
        if self._deadline is None or self.transport.is_closing():
            return
        left = self._deadline - self.loop.time()
        if self.flow.read_paused and not self._in_header:
            left = self._limits.silence_timeout_seconds  # it is the service that does not read
            self._deadline = self.loop.time() + left
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
            return
        what = "headers" if self._in_header else "body"
        self._refuse(RequestTimedOut(f"The {what} of the request did not come in time; send it again."))

    def _header_too_large(self) -> HeaderTooLarge:
        return HeaderTooLarge(
            f"The request's line and headers may hold {self._limits.max_header_bytes} bytes together."
        )

    def _refuse(self, error: ServiceError) -> None:
        """Answer, unless a response has begun, and close the connection."""
        self._metrics.closed_connections.labels(reason=error.code).inc()
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            body = error_json(error).encode()
            lines = [
                STATUS_LINE[error.status],
                b"content-type: application/json\r\n",
                b"content-length: %d\r\n" % len(body),
                b"connection: close\r\n",
            ]
            if error.retry_after_seconds is not None:
                lines.append(b"retry-after: %d\r\n" % max(1, round(error.retry_after_seconds)))
            self.transport.write(b"".join([*lines, b"\r\n", body]))
            self.transport.close()
        else:
            self.transport.abort()


def bounded_protocol(limits: ConnectionLimits, metrics: Metrics) -> type[asyncio.Protocol]:
    """What `uvicorn.Config(http=...)` takes: the protocol of every connection of one server."""
    protocol = partial(BoundedProtocol, limits=limits, metrics=metrics, refused=_RefusedConnections())
    return cast("type[asyncio.Protocol]", protocol)  # uvicorn only calls it
