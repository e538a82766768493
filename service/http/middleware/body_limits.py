"""BodyLimit: bounds the size of a body before anything of it is parsed or spooled to disk."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import PayloadTooLarge
from service.http.content_negotiation import MULTIPART, media_type

MAX_JSON_BYTES = 2**20
# Boundaries, part headers and the other fields of a form around its file.
MAX_FORM_OVERHEAD_BYTES = 64 * 2**10


class BodyLimit:
    """Middleware: PayloadTooLarge at once when Content-Length is over the bound, or as soon as more has come
    in. The rest of a refused body is not read, so memory and disk stay flat.
    """

    def __init__(self, app: ASGIApp, max_upload_bytes: int) -> None:
        self.app = app
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_form = media_type(headers) == MULTIPART
        max_bytes = self.max_upload_bytes if is_form else MAX_JSON_BYTES  # as clients are told
        bound = max_bytes + (MAX_FORM_OVERHEAD_BYTES if is_form else 0)
        message = f"The body is too large: it may hold {max_bytes} bytes."
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > bound:
            raise PayloadTooLarge(message)
        num_bytes = 0

        async def bounded_receive() -> Message:
            nonlocal num_bytes
            part = await receive()
            num_bytes += len(part.get("body", b""))
            if num_bytes > bound:
                raise PayloadTooLarge(message)
            return part

        await self.app(scope, bounded_receive, send)
