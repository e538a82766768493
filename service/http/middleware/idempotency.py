"""Idempotency: a POST sent again with its Idempotency-Key gets the first response, and no new image."""

from __future__ import annotations

import hashlib
import re
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import Depends, Header
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.idempotency_store import HEADER, Claim, StoredResponse
from service.errors import (
    ClientDisconnected,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidRequest,
    ServiceError,
)
from service.http.content_negotiation import MULTIPART
from service.http.dependencies import Readiness, ReadyService
from service.http.error_handlers import error_response
from service.http.middleware.auth import caller_of
from service.stage_timer import RequestTrace

PATHS = ("/v1/images/generations", "/v1/styles")
REPLAYED = (b"idempotent-replayed", b"true")
MAX_KEY_CHARS = 255
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_CHARS}}}")
# A stream that failed after its first byte has a status of 200 all the same.
_FAILED_STREAM = re.compile(rb"(^|\n)event: error\n")


async def _documented(
    key: Annotated[
        Annotated[str, Field(pattern=rf"^[!-~]{{1,{MAX_KEY_CHARS}}}$")] | SkipJsonSchema[None],
        Header(
            alias=HEADER,
            description="Of the client's choice, one for each thing it wants done. The same request with the "
            "same key again gets the first one's answer, with `Idempotent-Replayed: true`.",
        ),
    ] = None,
) -> None:
    """Only adds the header to the OpenAPI document; the middleware has read it by then."""


IDEMPOTENT = Depends(_documented)


class Idempotency:
    """Middleware: sends the stored response to a POST that was answered before.

    Only successes are stored. After a failure the same key may be sent again, with another body too: the
    client has been told what to change, or to try again.
    """

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        self.app = app
        self.readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.readiness.service
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in PATHS:
            key = Headers(scope=scope).get(HEADER)
            if service is not None and key is not None:  # else the route says that the service is not ready
                try:
                    await self._respond(service, key, scope, receive, send)
                except ServiceError as error:  # the app's own are answered within it
                    if isinstance(error, IdempotencyKeyInUse | IdempotencyKeyReused):
                        service.metrics.refusals.labels(reason=error.code).inc()
                    await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _respond(
        self, service: ReadyService, key: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if not _KEY.fullmatch(key):
            raise InvalidRequest(
                f"{HEADER} must be 1 to {MAX_KEY_CHARS} characters of ASCII without blanks.", param=HEADER
            )
        trace: RequestTrace = scope["state"]["trace"]
        with trace.stage("upload"):
            body = await _read(scope, receive)
        claiming = service.idempotency.claim(
            scope=[caller_of(scope).tenant, scope["path"], key], fingerprint=_fingerprint(scope, body)
        )
        async with AsyncExitStack() as stack:
            with trace.stage("store"):
                claim = await stack.enter_async_context(claiming)
            if claim.response is None:
                await self.app(scope, _receive_again(body, receive), recording(claim, send))
            else:
                trace.fields["replayed"] = True
                await _replay(claim.response, send)


async def _read(scope: Scope, receive: Receive) -> bytes:
    try:
        return await Request(scope, receive).body()
    except ClientDisconnect as error:
        raise ClientDisconnected("The client closed the connection.") from error


def _receive_again(body: bytes, receive: Receive) -> Receive:
    """Receives the body that was read, then whatever comes."""
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return receive_again


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


async def _replay(response: StoredResponse, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": [*headers, REPLAYED]})
    await send({"type": "http.response.body", "body": response.body})


def _fingerprint(scope: Scope, body: bytes) -> str:
    """What identifies a request: its body, content type, accepted type and query."""
    headers = Headers(scope=scope)
    kind, parameters = parse_options_header(headers.get("content-type", ""))
    if kind.decode("latin-1").lower() == MULTIPART:
        # Clients draw a new boundary each time they send the same form.
        body = body.replace(b"--" + parameters.get(b"boundary", b""), b"--")
    digest = hashlib.sha256(body)
    for part in (kind, headers.get("accept", "").encode("latin-1"), scope["query_string"]):
        digest.update(b"\n" + hashlib.sha256(part).digest())
    return digest.hexdigest()
