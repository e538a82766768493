"""create_app: the routes, the middleware and the service behind them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service import __version__
from service.access.keyring import ReloadingKeyring, require_guard
from service.http import health, images, jobs, models, styles
from service.http.error_handlers import install_error_handlers
from service.http.middleware.auth import BEARER, MCP_PATH, READABLE_HEADERS, Authentication
from service.http.middleware.idempotency import Idempotency
from service.http.middleware.limits import BodyLimit, RequestTimeout, max_base64_bytes
from service.http.middleware.telemetry import Telemetry
from service.http.openapi import docs_page
from service.http.openapi.document import DESCRIPTION, complete
from service.http.playground import playground_router
from service.http.schemas.base import ProblemResponse
from service.lifecycle import SILENT, CannotStart, Progress, Service
from service.media.c2pa_signer import read_signer
from service.model.engine.generator import Generator
from service.settings import Settings
from service.tracing import Tracing, tracing_from_environment

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager


def create_app(
    settings: Settings,
    generator: Generator | None = None,
    *,
    progress: Progress = SILENT,
    clock: Callable[[], float] = time.perf_counter,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The ASGI app; its lifespan starts and stops a Service, found at `app.state.service`.

    Without a generator the model of the settings is loaded, while `/livez` answers and `/readyz` says 503.
    `clock` measures, in seconds, the durations of Server-Timing and of the metrics. Without `tracing` the
    environment says whether requests are traced.
    CannotStart when the API keys cannot be read, or there are none where there must be, and when images are
    to be signed, or requests traced, and cannot be.
    """
    try:
        keyring = ReloadingKeyring(settings)
        require_guard(settings, keyring.now)
        signer = read_signer(settings)
        tracing = tracing or tracing_from_environment()
    except ValueError as error:
        raise CannotStart(str(error)) from error
    service = Service(settings, keyring, signer, generator, progress, clock, tracing)

    sessions = _mcp_sessions(service) if settings.mcp else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            async with sessions.run() if sessions is not None else nullcontext():
                yield
        finally:
            await service.stop()

    app = FastAPI(
        title="Atelier",
        version=__version__,
        summary="Style-personalised images: upload a style once, draw any prompt in it.",
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        responses={"default": {"model": ProblemResponse, "description": "Any other failure."}},
    )
    app.state.service = service
    app.state.readiness = service.readiness
    app.state.metrics = service.metrics
    install_error_handlers(app)
    for routes in (images, jobs, styles, models):
        app.include_router(routes.router, dependencies=[Depends(BEARER)] if keyring.now.api_keys else [])
    if settings.playground:  # before the health routes, whose / leads to the reference
        app.include_router(playground_router(asks_for_key=bool(keyring.now.api_keys)))
    app.include_router(health.router)
    app.include_router(docs_page.router)
    if sessions is not None:
        app.router.routes.append(Route(MCP_PATH, _McpEndpoint(sessions), methods=["POST"]))
    app.openapi = complete(app)  # type: ignore[method-assign]
    list(iter_route_contexts(app.routes))  # builds the routes, which FastAPI leaves to the first request
    # The last one added is the outermost.
    app.add_middleware(Idempotency, readiness=service.readiness)
    app.add_middleware(
        BodyLimit,
        max_upload_bytes=settings.max_upload_bytes,
        max_bytes_in_progress=settings.max_body_bytes_in_progress,
    )
    app.add_middleware(
        Authentication,
        keyring=keyring,
        readiness=service.readiness,
        allowed_hosts=frozenset(filter(None, settings.allowed_hosts.lower().replace(" ", "").split(","))),
        allowed_origins=settings.allowed_origins,
    )
    app.add_middleware(RequestTimeout, max_seconds=settings.request_timeout_seconds)
    app.add_middleware(Telemetry, metrics=service.metrics, clock=clock, tracing=tracing)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(settings.allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=READABLE_HEADERS,
        )
    return app


class _McpEndpoint:
    """An ASGI app: a route takes functions for something else."""

    def __init__(self, sessions: StreamableHTTPSessionManager) -> None:
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._sessions.handle_request(scope, receive, send)


def _mcp_sessions(service: Service) -> StreamableHTTPSessionManager:
    """CannotStart without the package that speaks the protocol: an extra, since most services do without."""
    try:
        from service.mcp import create_server
    except ModuleNotFoundError as error:
        raise CannotStart("ATELIER_MCP needs the package mcp: pip install 'atelier-style[mcp]'.") from error
    max_body_bytes = max_base64_bytes(service.settings.max_upload_bytes)
    return create_server(service.readiness.require, max_body_bytes).session_manager
