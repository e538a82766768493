"""Telemetry: the ID, log line, metrics and headers of every request, and the response to every error."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.application.caller import Caller
from service.errors import ServiceError
from service.http.error_handlers import error_response, matching_routes, unexpected_error
from service.http.middleware.auth import is_guarded
from service.metrics import REFUSALS, Metrics
from service.stage_timer import RequestTrace
from service.tracing import TracedRequest, Tracing

ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Requested by machines every few seconds.
QUIET_PATHS = ("/livez", "/readyz", "/metrics")
QUIET_ROUTES = tuple(f"GET {path}" for path in QUIET_PATHS)
UNMATCHED = "unmatched"
log = structlog.stdlib.get_logger(__name__)


@dataclass
class Telemetry:
    """Middleware, outermost of ours: the others raise a ServiceError to refuse a request."""

    app: ASGIApp
    metrics: Metrics
    clock: Callable[[], float] = time.perf_counter
    tracing: Tracing | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":  # the answer of GET; the server leaves its body out
            scope = {**scope, "method": "GET"}
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if ACCEPTABLE_ID.fullmatch(given) else f"req_{uuid4().hex}"
        trace, caller = RequestTrace(self.clock), Caller()
        scope.setdefault("state", {}).update(trace=trace, caller=caller)
        traced = self._begin(scope, trace)
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await _add_headers(message, request_id, scope)
            await send(message)

        async def answer(error: ServiceError) -> None:
            if error.code in REFUSALS:
                self.metrics.refusals.labels(reason=error.code).inc()
            await error_response(error)(scope, receive, observed_send)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id, **(traced.ids if traced else {})),
            self.metrics.requests_running.track_inprogress(),
        ):
            try:
                await self.app(scope, receive, observed_send)
            except Exception as error:
                is_expected = isinstance(error, ServiceError) and not status
                if not is_expected:
                    log.exception("request_failed", method=scope["method"], path=scope["path"])
                if not status:
                    await answer(error if isinstance(error, ServiceError) else unexpected_error())
            finally:
                self._record(scope, trace, method, status or 499, traced)

    def _begin(self, scope: Scope, trace: RequestTrace) -> TracedRequest | None:
        if self.tracing is None or scope["path"] in QUIET_PATHS:
            return None
        traced = self.tracing.begin(Headers(scope=scope))
        trace.outgoing_headers = traced.headers
        return traced

    def _record(
        self, scope: Scope, trace: RequestTrace, method: str, status: int, traced: TracedRequest | None
    ) -> None:
        route, seconds = route_label(scope), trace.elapsed_seconds
        exemplar = None if traced is None else traced.exemplar
        self.metrics.requests.labels(route=route, code=str(status)).inc()
        self.metrics.request_duration_seconds.labels(route=route).observe(seconds, exemplar)
        if trace.is_stylised and status == 200:
            self.metrics.stylised_duration_seconds.observe(seconds, exemplar)
        if traced is not None and self.tracing is not None:
            attributes = {
                "http.request.method": method,
                "http.route": route.partition(" ")[2],
                "http.response.status_code": status,
                "url.path": scope["path"],
                "error.type": trace.fields.get("failure", str(status) if status >= 400 else None),
            }
            self.tracing.end(traced, trace, route, attributes)
        fields: dict[str, object] = {
            f"{stage}_seconds": round(value, 4) for stage, value in trace.seconds.items()
        }
        if trace.step_seconds:
            fields["step_seconds"] = [round(step, 4) for step in trace.step_seconds]
        log.log(
            logging.DEBUG if route in QUIET_ROUTES else logging.INFO,
            "request",
            method=method,
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            **fields,
            **trace.fields,
        )


async def _add_headers(message: Message, request_id: str, scope: Scope) -> None:
    """Its ID, its stages and steps in milliseconds, and the rate limits, named as OpenAI names them."""
    trace: RequestTrace = scope["state"]["trace"]
    caller: Caller = scope["state"]["caller"]
    headers = MutableHeaders(scope=message)
    headers["X-Request-ID"] = request_id
    headers.update(trace.outgoing_headers)
    if is_guarded(scope["path"]):  # no proxy may keep what belongs to one client
        headers.setdefault("Cache-Control", "no-store")
    total = trace.elapsed_seconds
    seconds = trace.seconds | trace.http_seconds(trace.began + total)
    seconds |= {f"step{step}": spent for step, spent in enumerate(trace.step_seconds, start=1)}
    seconds["total"] = total
    headers["Server-Timing"] = ", ".join(f"{name};dur={1000 * spent:.2f}" for name, spent in seconds.items())
    if caller.rates:
        await caller.look()
    for kind, window in caller.windows.items():
        headers[f"x-ratelimit-limit-{kind}"] = str(window.limit)
        headers[f"x-ratelimit-remaining-{kind}"] = str(window.remaining)
        headers[f"x-ratelimit-reset-{kind}"] = f"{window.wait_seconds(window.limit):.3f}s"


def route_label(scope: Scope) -> str:
    """Method and template of the request's route, wherever the request was answered.

    "other TEMPLATE" where the path has no such method, and "unmatched" where there is no such path: clients
    may send anything, and the label's values stay a closed set.
    """
    method, route = scope["method"], scope.get("route")
    if route is not None and method in (route.methods or ()):
        return f"{method} {route.path}"
    matching = matching_routes(scope["app"], scope["path"]) if "app" in scope else []
    for template, methods in matching:
        if method in methods:
            return f"{method} {template}"
    return f"other {matching[0][0]}" if matching else UNMATCHED
