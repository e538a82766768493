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

from service.http.problems import error_response, unexpected_error
from service.metrics import Metrics

ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Asked for by machines every few seconds.
QUIET_ROUTES = ("GET /livez", "GET /readyz", "GET /metrics")

log = structlog.stdlib.get_logger("atelier.http")


@dataclass(slots=True)
class Account:
    """What a route wants said of its request: seconds by stage for Server-Timing, fields for the log line.

    Stages follow one another, so that they add up to the request's duration but for what is spent on HTTP
    itself; steps are parts of the stage "transformer".
    """

    clock: Callable[[], float] = time.perf_counter
    stage_seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: tuple[float, ...] = ()
    fields: dict[str, object] = field(default_factory=dict)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def seconds(self) -> float:
        """Since the request's head arrived."""
        return self.clock() - self.began

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of what happens inside to one stage of the request."""
        began = self.clock()
        try:
            yield
        finally:
            so_far = self.stage_seconds.get(name, 0.0)
            self.stage_seconds[name] = so_far + self.clock() - began


async def account(request: Request) -> Account:
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
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if ACCEPTABLE_ID.fullmatch(given) else f"req_{uuid4().hex}"
        account = scope.setdefault("state", {})["account"] = Account(self.clock)
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["Server-Timing"] = _server_timing(account)
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            self.metrics.requests_running.track_inprogress(),
        ):
            try:
                await self.app(scope, receive, observed_send)
            except Exception:
                log.exception("request_failed", method=scope["method"], path=scope["path"])
                if not status:
                    await error_response(unexpected_error())(scope, receive, observed_send)
            finally:
                self._record(scope, account, status or 499, account.seconds)

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
            **(
                {"step_seconds": [round(each, 4) for each in steps]}
                if (steps := account.step_seconds)
                else {}
            ),
            **account.fields,
        )


def _route(scope: Scope) -> str:
    """Method and template of the route that answered; "unmatched" keeps the label's values a closed set."""
    route = scope.get("route")
    method = scope["method"]
    if route is None or method not in (route.methods or ()):
        return "unmatched"
    return f"{method} {route.path}"


def _server_timing(account: Account) -> str:
    """Every stage and step so far and, by the name of total, the time from the arrival to this header."""
    parts = dict(account.stage_seconds)
    parts |= {f"step{step}": seconds for step, seconds in enumerate(account.step_seconds, start=1)}
    parts["total"] = account.seconds
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in parts.items())
