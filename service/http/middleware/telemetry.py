"""Every request seen from outside: its ID, its log line, its metrics, its Server-Timing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from uuid import uuid4

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.error_handlers import _matching, error_response, unexpected_error
from service.metrics import Metrics
from service.stage_timer import StageTimer

ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Asked for by machines every few seconds.
QUIET_ROUTES = ("GET /livez", "GET /readyz", "GET /metrics")
log = structlog.stdlib.get_logger("atelier.http")


@dataclass(slots=True)
class RequestTrace:
    """What a route wants said of its request: its stages for Server-Timing, fields for the log line.

    Stages add up to the request's duration but for what is spent on HTTP itself; steps are parts of the stage
    "transformer".
    """

    clock: Callable[[], float] = time.perf_counter
    stages: StageTimer = field(init=False)
    step_seconds: tuple[float, ...] = ()
    fields: dict[str, object] = field(default_factory=dict)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.stages = StageTimer(self.clock)

    @property
    def seconds(self) -> float:
        """Since the request's head arrived."""
        return self.clock() - self.began

    def stage(self, name: str) -> AbstractContextManager[None]:
        """What happens inside is of this stage."""
        return self.stages.stage(name)


async def account(request: Request) -> RequestTrace:
    """Dependency: the account of this request."""
    found = request.scope["state"]["account"]
    assert isinstance(found, RequestTrace)
    return found


class Telemetry:
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
        account = scope.setdefault("state", {})["account"] = RequestTrace(self.clock)
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

    def _record(self, scope: Scope, account: RequestTrace, status: int, seconds: float) -> None:
        route = label_of(scope)
        self.metrics.requests.labels(route=route, code=str(status)).inc()
        self.metrics.request_duration_seconds.labels(route=route).observe(seconds)
        log.log(
            10 if route in QUIET_ROUTES else 20,
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            **{f"{stage}_seconds": round(value, 4) for stage, value in account.stages.seconds.items()},
            **(
                {"step_seconds": [round(step, 4) for step in steps]}
                if (steps := account.step_seconds)
                else {}
            ),
            **account.fields,
        )


def _server_timing(account: RequestTrace) -> str:
    """Every stage and step so far and, by the name of total, the time from the arrival to this header."""
    parts = account.stages.seconds
    parts |= {f"step{step}": seconds for step, seconds in enumerate(account.step_seconds, start=1)}
    parts["total"] = account.seconds
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in parts.items())


UNMATCHED = "unmatched"


def label_of(scope: Scope) -> str:
    """Method and template of the request's route, wherever the request was answered.

    "other TEMPLATE" where the path has no such method, and "unmatched" where there is no such path: clients
    may send whatever they like, and the label's values stay a closed set.
    """
    method, route = scope["method"], scope.get("route")
    if route is not None and method in (route.methods or ()):
        return f"{method} {route.path}"
    matching = _matching(scope["app"], scope["path"]) if "app" in scope else []
    for template, methods in matching:
        if method in methods:
            return f"{method} {template}"
    return f"other {matching[0][0]}" if matching else UNMATCHED
