"""Idempotency: the same POST with the same Idempotency-Key again gets the answer it got, and no new image."""

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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.idempotency_store import HEADER, Answer, Claim
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
    """Only tells the document of the header, which the middleware has read by then."""


IDEMPOTENT = Depends(_documented)


class Idempotency:
    """Middleware: answers a POST that was answered before as it was answered then.

    Only successes are kept. After any failure the same key may be sent again, with another body too: the
    client will have been told what to change, or to try again.
    """

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        self.app = app
        self.readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.readiness.service
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in PATHS:
            key = Headers(scope=scope).get(HEADER)
            if service is not None and key is not None:  # else the route says that the service is not ready
                await self._answer(service, key, scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _answer(
        self, service: ReadyService, key: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            if not _KEY.fullmatch(key):
                raise InvalidRequest(
                    f"{HEADER} must be 1 to {MAX_KEY_CHARS} characters of ASCII without blanks.", param=HEADER
                )
            trace: RequestTrace = scope["state"]["trace"]
            with trace.stage("upload"):
                body = await _read(receive)
            claiming = service.idempotency.claim(
                scope=[caller_of(scope).tenant, scope["path"], key], fingerprint=_fingerprint(scope, body)
            )
            async with AsyncExitStack() as stack:
                with trace.stage("store"):
                    claim = await stack.enter_async_context(claiming)
                if claim.answer is not None:
                    trace.fields["replayed"] = True
                    await _replay(claim.answer, send)
                else:
                    await self.app(scope, _given_back(body, receive), recording(claim, send))
        except ServiceError as error:  # the app's own are answered within it
            if isinstance(error, IdempotencyKeyInUse | IdempotencyKeyReused):
                service.metrics.refusals.labels(reason=error.code).inc()
            await error_response(error)(scope, receive, send)


async def _read(receive: Receive) -> bytes:
    """The whole body, bounded by BodyLimit; ClientDisconnected when it does not all come."""
    chunks, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("The client closed the connection.")
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)


def _given_back(body: bytes, receive: Receive) -> Receive:
    """Receives the body that was read, then whatever comes."""
    is_given = False

    async def given() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return given


def recording(claim: Claim, send: Send) -> Send:
    """Sends on. Before the last byte goes out, a success is kept or the key is free again: who has it all may
    ask again at once.
    """
    status, headers, body = 0, Headers(), bytearray()

    async def recorded(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], Headers(raw=message["headers"])
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                if 200 <= status < 300 and not _FAILED_STREAM.search(body):
                    await claim.keep(Answer(status, tuple(headers.items()), bytes(body)))
                await claim.let_go()
        await send(message)

    return recorded


async def _replay(answer: Answer, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, REPLAYED]})
    await send({"type": "http.response.body", "body": answer.body})


def _fingerprint(scope: Scope, body: bytes) -> str:
    """What tells two requests apart: the body, what it says it is, and the form of answer it wants."""
    headers = Headers(scope=scope)
    kind, parameters = parse_options_header(headers.get("content-type", ""))
    if kind.decode("latin-1").lower() == MULTIPART:
        # Clients draw a new boundary each time they send the same form.
        body = body.replace(b"--" + parameters.get(b"boundary", b""), b"--")
    digest = hashlib.sha256(body)
    for part in (kind, headers.get("accept", "").encode("latin-1"), scope["query_string"]):
        digest.update(b"\n" + hashlib.sha256(part).digest())
    return digest.hexdigest()
