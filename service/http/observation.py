"""Every request seen from outside: its ID, its log line, its metrics, its Server-Timing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import unexpected_response
from service.metrics import Metrics

ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Asked for by machines every few seconds.
QUIET_ROUTES = ("GET /livez", "GET /readyz", "GET /metrics")

log = structlog.stdlib.get_logger("atelier.http")


@dataclass(slots=True)
class Account:
    """What a route wants said of its request: seconds by stage for Server-Timing, fields for the log line."""

    stage_seconds: dict[str, float] = field(default_factory=dict)
    fields: dict[str, object] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what happens inside as one stage of the request."""
        began = time.perf_counter()
        yield
        self.stage_seconds[name] = time.perf_counter() - began


def account(request: Request) -> Account:
    """Dependency: the account of this request."""
    found = request.scope["state"]["account"]
    assert isinstance(found, Account)
    return found


class Observation:
    """Middleware, outermost of ours: all that happens inside is counted and logged, failures too."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = self.clock()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if ACCEPTABLE_ID.fullmatch(given) else f"req_{uuid4().hex}"
        account = scope.setdefault("state", {})["account"] = Account()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if account.stage_seconds:
                    headers["Server-Timing"] = _server_timing(account.stage_seconds)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, observed_send)
            except Exception:
                log.exception("request_failed", method=scope["method"], path=scope["path"])
                if not status:
                    await unexpected_response()(scope, receive, observed_send)
            finally:
                self._record(scope, account, status or 499, self.clock() - began)

    def _record(self, scope: Scope, account: Account, status: int, seconds: float) -> None:
        route = _route(scope)
        self.metrics.requests.labels(route=route, code=str(status)).inc()
        self.metrics.request_duration_seconds.labels(route=route).observe(seconds)
        log.log(
            10 if route in QUIET_ROUTES else 20,
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            **{f"{stage}_seconds": round(value, 4) for stage, value in account.stage_seconds.items()},
            **account.fields,
        )


def _route(scope: Scope) -> str:
    """Method and template of the route that answered; "unmatched" keeps the label's values a closed set."""
    route = scope.get("route")
    method = scope["method"]
    if route is None or method not in (route.methods or ()):
        return "unmatched"
    return f"{method} {route.path}"


def _server_timing(stage_seconds: dict[str, float]) -> str:
    return ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in stage_seconds.items())
