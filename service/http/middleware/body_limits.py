"""BodyLimit: bounds the size of a body before anything of it is parsed or spooled to disk."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import PayloadTooLarge, QueueFull
from service.http.content_negotiation import MULTIPART, media_type
from service.http.error_handlers import error_response

MAX_JSON_BYTES = 2**20
# Boundaries, part headers and the other fields of a form around its file.
MAX_FORM_OVERHEAD_BYTES = 64 * 2**10
RETRY_SECONDS = 2.0


class BodyLimit:
    """Middleware: 413 at once when Content-Length is over the bound, or as soon as more has come in.

    A refused body is not read: the server drops the rest of it as it arrives, so memory and disk stay flat.
    All bodies in progress share `max_bytes_in_progress`, of which each takes its length before it is read,
    and gives it back when its request ends; 429 when there is not enough.
    """

    def __init__(self, app: ASGIApp, max_upload_bytes: int, max_bytes_in_progress: int) -> None:
        self.app = app
        self.max_upload_bytes = max_upload_bytes
        self.max_bytes_in_progress = max_bytes_in_progress
        self.bytes_in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_form = media_type(headers) == MULTIPART
        max_bytes = self.max_upload_bytes if is_form else MAX_JSON_BYTES  # as clients are told
        bound = max_bytes + (MAX_FORM_OVERHEAD_BYTES if is_form else 0)
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > bound:
            await error_response(_too_large(max_bytes))(scope, receive, send)
            return
        # A body without a length may be as long as is allowed.
        reserved = bound if "transfer-encoding" in headers else int(declared)
        if self.bytes_in_progress + reserved > max(self.max_bytes_in_progress, reserved):
            await error_response(
                QueueFull(
                    "The service is receiving as much as it can hold; try again shortly.",
                    retry_after_seconds=RETRY_SECONDS,
                )
            )(scope, receive, send)
            return
        num_bytes = 0

        async def bounded_receive() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > bound:
                raise _too_large(max_bytes)
            return message

        self.bytes_in_progress += reserved
        try:
            await self.app(scope, bounded_receive, send)
        finally:
            self.bytes_in_progress -= reserved


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is too large: it may hold {max_bytes} bytes.")
