"""Rate limits: how much an API key may ask for in a minute, and the headers that tell it what is left."""

from __future__ import annotations

import math
from typing import Literal

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.api_key import ApiKey
from service.access.rate_limiter import RateLimit, Window
from service.errors import InvalidRequest, RateLimitExceeded
from service.http.dependencies import Parts, Readiness
from service.http.error_handlers import error_response
from service.http.middleware.auth import caller_of

Kind = Literal["requests", "images"]


class Allowance:
    """What the key of one request may still ask for. Without a key, or limits, as much as it likes."""

    def __init__(self, parts: Parts | None, api_key: ApiKey | None) -> None:
        self._parts = parts
        self._windows: dict[str, Window] = {}
        self._rates: dict[str, RateLimit] = {}
        if parts is not None and api_key is not None:
            limits = {"requests": api_key.limits.requests, "images": api_key.limits.images}
            self._rates = {
                kind: RateLimit(f"{api_key.name}/{kind}", limit)
                for kind, limit in limits.items()
                if limit is not None
            }

    async def take(self, kind: Kind, cost: int) -> None:
        """RateLimitExceeded when there is no room for `cost` now; InvalidRequest when there never will be."""
        rate = self._rates.get(kind)
        if rate is None or self._parts is None:
            return
        if cost > rate.limit:
            raise InvalidRequest(
                f"The request asks for {cost} {kind}, and this API key may ask for {rate.limit} a minute; "
                "ask for fewer at a time.",
                param="n",
            )
        is_taken, window = await self._parts.rates.take(rate, cost)
        self._windows[kind] = window
        if not is_taken:
            wait = window.wait_seconds(cost)
            self._parts.metrics.refusals.labels(reason=RateLimitExceeded.code).inc()
            raise RateLimitExceeded(
                f"This API key may ask for {rate.limit} {kind} a minute. There is room for {cost} more in "
                f"{math.ceil(wait)} seconds.",
                retry_after_seconds=wait,
            )

    async def headers(self) -> dict[str, str]:
        """As OpenAI names them: the limit, what is left of it, and when all of it is there again."""
        if self._parts is None:
            return {}
        for kind, rate in self._rates.items():
            if kind not in self._windows:
                self._windows[kind] = await self._parts.rates.look(rate)
        return {
            f"x-ratelimit-{name}-{kind}": value
            for kind, window in self._windows.items()
            for name, value in {
                "limit": str(window.limit),
                "remaining": str(window.remaining),
                "reset": f"{window.wait_seconds(window.limit):.3f}s",
            }.items()
        }


async def allowance(request: Request) -> Allowance:
    """Dependency: what this request may still ask for."""
    found = request.scope["state"]["allowance"]
    assert isinstance(found, Allowance)
    return found


class RateLimits:
    """Middleware: counts each request under an API key, or answers 429; tells each answer what is left.

    A service that is not ready counts nothing: it refuses everything anyway.
    """

    def __init__(self, app: ASGIApp, readiness: Readiness) -> None:
        self.app = app
        self.readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        allowance = scope["state"]["allowance"] = Allowance(self.readiness.parts, caller_of(scope).api_key)

        async def telling_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(await allowance.headers())
            await send(message)

        try:
            await allowance.take("requests", 1)
        except RateLimitExceeded as error:
            await error_response(error)(scope, receive, telling_send)
            return
        await self.app(scope, receive, telling_send)
