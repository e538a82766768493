"""Limits of a request: its time from its arrival, and the size of its body."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceeded, InvalidRequest, PayloadTooLarge, QueueFull, UnsupportedMediaType
from service.http.content_negotiation import MULTIPART, media_type
from service.http.middleware.auth import MCP_PATH

TIMEOUT_HEADER = "X-Request-Timeout"
MAX_SECONDS = 24 * 3600
MAX_JSON_BYTES = 2**20
EDITS_PATH = "/v1/images/edits"  # whose JSON holds pictures
# Boundaries, part headers and the other fields of a form around its file.
MAX_FORM_OVERHEAD_BYTES = 64 * 2**10
RETRY_SECONDS = 2.0
TIMEOUT_PARAMETER: dict[str, Any] = {  # of the OpenAPI document
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "description": "Seconds, from the arrival of the request; then 504.",
    "schema": {"type": "number", "minimum": 0.001, "maximum": MAX_SECONDS},
}


@dataclass
class RequestTimeout:
    """Middleware: DeadlineExceeded once the time that the client or the settings allow is over.

    Whatever the request waits for is cancelled: its body, its upload, its jobs. A response that has begun is
    not cut off; a stream ends by the deadline of its jobs.
    """

    app: ASGIApp
    max_seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seconds = allowed_seconds(Headers(scope=scope).get(TIMEOUT_HEADER), self.max_seconds)
        # By the batchers' clock.
        scope["state"]["deadline"] = time.monotonic() + seconds
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
            f"{TIMEOUT_HEADER} must be a number of seconds above 0 and at most {MAX_SECONDS}, such as 2.5.",
            param=TIMEOUT_HEADER,
        )
    return min(seconds, bound)


def max_base64_bytes(max_upload_bytes: int) -> int:
    """Of JSON with pictures in it, as base64: an edit, or a call of a tool."""
    return MAX_JSON_BYTES + max_upload_bytes * 4 // 3


@dataclass
class BodyLimit:
    """Middleware: PayloadTooLarge at once when Content-Length is over the bound, or as soon as more has come
    in. The rest of a refused body is not read, so memory and disk stay flat.

    All bodies together may hold `max_bytes_in_progress`: each takes its length before it is read and gives it
    back when its request ends; QueueFull when there is not enough.
    """

    app: ASGIApp
    max_upload_bytes: int
    max_bytes_in_progress: int
    bytes_in_progress: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise UnsupportedMediaType(
                f"The body's Content-Encoding is {encoding[:60]}; send it as it is, without the header."
            )
        is_form = media_type(headers) == MULTIPART
        max_bytes = self.max_upload_bytes if is_form else MAX_JSON_BYTES  # as in the message
        if scope["path"] == MCP_PATH or (scope["path"] == EDITS_PATH and not is_form):
            max_bytes = max_base64_bytes(self.max_upload_bytes)
        bound = max_bytes + (MAX_FORM_OVERHEAD_BYTES if is_form else 0)
        message = f"The body is too large: it may hold {max_bytes} bytes."
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > bound:
            raise PayloadTooLarge(message)
        # A body without a length may be as long as is allowed.
        reserved = bound if "transfer-encoding" in headers else int(declared)
        if self.bytes_in_progress and self.bytes_in_progress + reserved > self.max_bytes_in_progress:
            raise QueueFull(
                "The service is receiving as many bytes as it may hold; try again shortly.",
                retry_after_seconds=RETRY_SECONDS,
            )
        num_bytes = 0

        async def bounded_receive() -> Message:
            nonlocal num_bytes
            part = await receive()
            num_bytes += len(part.get("body", b""))
            if num_bytes > bound:
                raise PayloadTooLarge(message)
            return part

        self.bytes_in_progress += reserved
        try:
            await self.app(scope, bounded_receive, send)
        finally:
            self.bytes_in_progress -= reserved
