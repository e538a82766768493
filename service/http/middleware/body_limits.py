"""Bounds on what a client may send, kept before anything is parsed or spooled to disk."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import PayloadTooLarge
from service.http.content_negotiation import MULTIPART, media_type
from service.http.error_handlers import error_response

MAX_JSON_BYTES = 2**20
# Boundaries, part headers and the other fields of a form around its file.
MAX_FORM_OVERHEAD_BYTES = 64 * 2**10


class BodyLimit:
    """Middleware: 413 at once when Content-Length is over the bound, or as soon as more has come in.

    A refused body is not read: the server drops the rest of it as it arrives, so memory and disk stay flat.
    """

    def __init__(self, app: ASGIApp, max_upload_bytes: int) -> None:
        self.app = app
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        bound, error = MAX_JSON_BYTES, self._too_large(MAX_JSON_BYTES)
        if media_type(headers) == MULTIPART:
            bound, error = (
                self.max_upload_bytes + MAX_FORM_OVERHEAD_BYTES,
                self._too_large(self.max_upload_bytes),
            )
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > bound:
            await error_response(error)(scope, receive, send)
            return
        num_bytes = 0

        async def bounded() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > bound:
                raise error
            return message

        await self.app(scope, bounded, send)

    @staticmethod
    def _too_large(max_bytes: int) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body is too large: it may hold {max_bytes} bytes.")
