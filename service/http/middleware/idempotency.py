"""Idempotency: a POST sent again with its Idempotency-Key gets the first response, and no new image."""

from __future__ import annotations

import hashlib
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.idempotency_store import HEADER, Claim, StoredResponse
from service.errors import ClientDisconnected, InvalidRequest
from service.http.content_negotiation import MULTIPART
from service.http.dependencies import Readiness
from service.http.respond_async import is_preferred

PATHS = ("/v1/images/generations", "/v1/images/edits", "/v1/styles")
MAX_KEY_CHARS = 255
PARAMETER: dict[str, Any] = {  # of the OpenAPI document
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A text of the client's choice. The same request with the same key again gets the first "
    "response, with `Idempotent-Replayed: true`.",
    "schema": {"type": "string", "pattern": rf"^[!-~]{{1,{MAX_KEY_CHARS}}}$"},
}
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARS}}}")
# A stream that failed after its first byte has a status of 200 all the same.
_FAILED_STREAM = re.compile(rb"(^|\n)event: error\n")


@dataclass
class Idempotency:
    """Middleware: sends the stored response to a POST that was answered before.

    Only successes are stored: after a failure the same key may be sent again, with another body too.
    """

    app: ASGIApp
    readiness: Readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.readiness.service
        is_post = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in PATHS
        key = Headers(scope=scope).get(HEADER) if is_post else None
        if key is None or service is None:  # the route says that the service is not ready
            await self.app(scope, receive, send)
            return
        if not _KEY.fullmatch(key):
            raise InvalidRequest(
                f"{HEADER} must be 1 to {MAX_KEY_CHARS} characters of ASCII without blanks.", param=HEADER
            )
        trace, tenant = scope["state"]["trace"], scope["state"]["caller"].tenant
        request = Request(scope, receive)
        with trace.stage("upload"):
            try:
                body = await request.body()
            except ClientDisconnect as error:
                raise ClientDisconnected("The client closed the connection.") from error
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        async with AsyncExitStack() as stack:
            with trace.stage("store"):
                claiming = service.idempotency.claim(
                    scope=[tenant, scope["path"], key], fingerprint=_fingerprint(request, body)
                )
                claim = await stack.enter_async_context(claiming)
            if claim.response is None:
                await self.app(scope, receive_again, recording(claim, send))
            else:
                trace.fields["replayed"] = True
                await _replay(claim.response)(scope, receive, send)


def recording(claim: Claim, send: Send) -> Send:
    """A `send` that, before the last byte, stores a success or releases the key: a client that has received
    everything may send the key again at once.
    """
    status, headers, body = 0, Headers(), bytearray()

    async def send_and_record(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], Headers(raw=message["headers"])
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                if 200 <= status < 300 and not _FAILED_STREAM.search(body):
                    await claim.save(StoredResponse(status, tuple(headers.items()), bytes(body)))
                await claim.release()
        await send(message)

    return send_and_record


def _replay(stored: StoredResponse) -> Response:
    response = Response(stored.body, status_code=stored.status)
    headers = [*stored.headers, ("idempotent-replayed", "true")]
    response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return response


def _fingerprint(request: Request, body: bytes) -> str:
    """What identifies a request: its body, content type, accepted type, query, and whether it makes a job."""
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind.decode("latin-1").lower() == MULTIPART:
        # Clients draw a new boundary each time they send the same form.
        body = body.replace(b"--" + parameters.get(b"boundary", b""), b"--")
    digest = hashlib.sha256(body)
    accept = request.headers.get("accept", "").encode("latin-1")
    for part in (kind, accept, request.scope["query_string"]):
        digest.update(b"\n" + hashlib.sha256(part).digest())
    if is_preferred(request):
        digest.update(b"\nrespond-async")
    return digest.hexdigest()
