"""create_app: wires the parts; owns start, drain and stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog
from fastapi import Depends, FastAPI
from fastapi.routing import iter_route_contexts
from redis.asyncio import Redis
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service import __version__
from service.access.idempotency_store import IdempotencyStore
from service.access.keyring import ReloadingKeyring, require_guard
from service.access.rate_limiter import RateLimiter
from service.application.extract_style import Extraction, Styles, extraction_batcher
from service.application.generate import Images, generation_batcher, max_background_images
from service.application.job_worker import MAX_RESULT_BYTES, JobWorker
from service.application.jobs import Jobs
from service.application.model_names import ModelNames
from service.application.upload_limiter import UploadLimiter
from service.application.uploads import PictureReader
from service.application.webhook_sender import WebhookSender
from service.batching.batcher import Batcher
from service.batching.model_thread import ModelThread
from service.http import health, images, jobs, models, styles
from service.http.dependencies import Readiness, ReadyService
from service.http.error_handlers import install_error_handlers
from service.http.middleware.auth import BEARER, MCP_PATH, READABLE_HEADERS, Authentication
from service.http.middleware.idempotency import Idempotency
from service.http.middleware.limits import BodyLimit, RequestTimeout, max_base64_bytes
from service.http.middleware.telemetry import Telemetry
from service.http.openapi import docs_page
from service.http.openapi.document import DESCRIPTION, complete
from service.http.playground import playground_router
from service.http.schemas.base import ProblemResponse
from service.jobs.news import JobNews
from service.jobs.queue import JobQueue
from service.jobs.store import JobBounds, JobStore
from service.media.c2pa_signer import C2paSigner, read_signer
from service.metrics import Metrics
from service.model.checkpoints import registry
from service.model.engine.generator import Cancelled, Generator
from service.model.schedule import Size
from service.settings import Settings
from service.storage.client import connect
from service.storage.embedded_valkey.files import EmbeddedValkeyError
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.styles.store import StyleStore
from service.tracing import Tracing, tracing_from_environment
from service.webhooks.deliveries import Deliveries
from service.webhooks.target import WebhookRules

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

# Decoding takes up to 17 bytes a pixel of the upload, so this also bounds memory.
NUM_DECODING_THREADS = 2
NUM_ENCODING_THREADS = 2

In = TypeVar("In")
Out = TypeVar("Out")
PoolT = TypeVar("PoolT", bound=ThreadPoolExecutor)

log = structlog.stdlib.get_logger(__name__)


class Progress(Protocol):
    """Shows how far the start has come: here not at all; the module service/cli/progress.py does."""

    def bars(self) -> AbstractContextManager[Callable[[str, int, int], None]]:
        """Yields `on_progress(name, bytes so far, bytes in all)`."""
        return nullcontext(lambda name, num_done, num_bytes: None)

    def counter(self, num: int, what: str) -> AbstractContextManager[Callable[[], None]]:
        """Yields `count()`, to be called once for each of `num` steps."""
        return nullcontext(lambda: None)


class Silent(Progress):
    """Shows nothing."""


SILENT = Silent()


class CannotStart(Exception):
    """Why the service does not start, in a sentence for the person who started it."""


class Service:
    """All that one app runs, from start to stop. `settled` is set once the start has succeeded or failed."""

    def __init__(
        self,
        settings: Settings,
        keyring: ReloadingKeyring,
        signer: C2paSigner | None,
        generator: Generator | None,
        progress: Progress,
        clock: Callable[[], float],
        tracing: Tracing | None,
    ) -> None:
        self.settings = settings
        self.tracing = tracing
        self.keyring = keyring
        self.signer = signer
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.settled = asyncio.Event()
        self.failure: Exception | None = None
        self._is_closed = False
        self.row_tile: int | None = None  # of the loaded model, see `registry.row_tile_of`
        self._generator = generator
        self._progress = progress
        self._clock = clock
        self._stack = AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self._worker: JobWorker | None = None
        self.metrics.ready.set_function(lambda: float(self.readiness.is_ready))

    def start(self) -> None:
        """Begin to open the store and to load the model; the event loop stays free meanwhile."""
        self._starting = asyncio.create_task(self._start(), name="start")

    def close(self) -> None:
        """Refuse new requests from now on; those that were accepted are still answered. Loading stops."""
        self._is_closed = True
        self.readiness.close(
            "The service is shutting down; send the request to another replica, or again later."
        )
        if self._worker is not None:
            self._worker.close()

    async def stop(self) -> None:
        """Finish what was accepted, then stop everything in the reverse order of its start."""
        self.close()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._stack.aclose()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    async def _start(self) -> None:
        try:
            self.readiness.open(await self._wire())
        except Cancelled:
            log.info("loading_stopped")
        except (CannotStart, EmbeddedValkeyError) as error:
            self.failure = error
            log.error("cannot_start", reason=str(error))
        except Exception as error:
            self.failure = error
            log.exception("cannot_start")
        finally:
            if self.failure is not None:
                self.readiness.close("The service could not start; its log says why.")
            self.settled.set()

    async def _wire(self) -> ReadyService:
        settings, metrics = self.settings, self.metrics
        redis = await self._open_redis()
        thread = self._thread_pool(ModelThread())
        decoding = self._thread_pool(ThreadPoolExecutor(NUM_DECODING_THREADS, thread_name_prefix="decode"))
        # Apart from the uploads, so that slow ones hold up no finished image.
        encoding = self._thread_pool(ThreadPoolExecutor(NUM_ENCODING_THREADS, thread_name_prefix="encode"))
        generator = await asyncio.get_running_loop().run_in_executor(thread, self._load)
        names = self._model_names(generator)
        metrics.build_info.info(
            {"version": __version__, "model": generator.name, "fingerprint": generator.fingerprint}
        )
        generation = await self._started(generation_batcher(generator, thread, settings, metrics))
        extraction = await self._started(
            extraction_batcher(generator, thread, settings, metrics, self._clock)
        )
        background = await self._started(
            generation_batcher(generator, thread, settings, metrics, is_background=True)
        )
        store = StyleStore(redis, extractor=Extraction(generator, extraction, decoding), metrics=metrics)
        uploads = UploadLimiter(max_slots=settings.max_queued_uploads, metrics=metrics)
        reader = PictureReader(uploads, decoding, settings)
        drawing = Images(
            generator,
            names,
            generation,
            store,
            reader,
            encoding=encoding,
            settings=settings,
            metrics=metrics,
            signer=self.signer,
        )
        return ReadyService(
            settings=settings,
            images=drawing,
            styles=Styles(
                store,
                generator.name,
                generator.fingerprint,
                reader,
                settings,
                generator.warnings_of_text,
            ),
            jobs=self._take_jobs(redis, replace(drawing, batcher=background)),
            # The embedded store has this one replica, whose own counts are exact and cost no write to disk.
            rate_limiter=RateLimiter(None if settings.redis_url is None else redis, metrics=metrics),
            idempotency=IdempotencyStore(
                redis,
                metrics=metrics,
                seconds=settings.idempotency_seconds,
                max_tenant_bytes=settings.max_idempotency_bytes_per_tenant,
                max_total_bytes=settings.max_idempotency_bytes,
            ),
            batchers=(generation, extraction, background),
            loaded_at=int(time.time()),
        )

    def _take_jobs(self, redis: Redis, drawing: Images) -> Jobs:
        """Begin to draw jobs with `drawing`, whose batches yield to those of requests."""
        settings, metrics, generator = self.settings, self.metrics, drawing.generator
        bounds = JobBounds(
            max_jobs=settings.max_jobs,
            max_request_bytes=settings.max_job_request_bytes,
            max_result_bytes=settings.max_job_result_bytes,
            max_tenant_result_bytes=settings.max_job_result_bytes_per_tenant,
            result_seconds=settings.job_ttl_seconds,
        )
        queue = JobQueue(
            redis,
            model=generator.name,
            bounds=bounds,
            max_attempts=settings.max_job_attempts,
            metrics=metrics,
        )
        news = JobNews(redis)
        in_batch = max_background_images(
            generator.max_images(generator.default_size), is_cpu=generator.backbone.device.type == "cpu"
        )
        self._worker = JobWorker(
            queue,
            news,
            drawing,
            images.JOBS,
            metrics=metrics,
            max_running=2 * in_batch,  # the next ones wait for the model while results are encoded and kept
            is_alone=settings.redis_url is None,
            max_result_bytes=min(
                MAX_RESULT_BYTES, settings.max_job_result_bytes, settings.max_job_result_bytes_per_tenant
            ),
            tracing=self.tracing,
        )
        self._worker.start()
        self._stack.push_async_callback(self._worker.stop)
        rules = WebhookRules.of(settings)
        sender = WebhookSender(
            Deliveries(redis, metrics=metrics),
            rules,
            metrics=metrics,
            max_attempts=settings.max_webhook_attempts,
            timeout_seconds=settings.webhook_timeout_seconds,
        )
        sending = asyncio.create_task(sender.run(), name="webhooks")
        self._stack.push_async_callback(_cancelled, sending)
        store = JobStore(redis, model=generator.name, bounds=bounds, metrics=metrics)
        return Jobs(store, news, rules)

    def _model_names(self, generator: Generator) -> ModelNames:
        names = ModelNames(generator.name, self.settings.aliases)
        try:
            names.check()
        except ValueError as error:
            raise CannotStart(str(error)) from error
        return names

    async def _open_redis(self) -> Redis:
        url = self.settings.redis_url
        if url is None:
            server = EmbeddedValkey(self.settings.data_dir)
            await server.start()
            self._stack.push_async_callback(server.stop)
            watching = asyncio.create_task(server.keep_running(), name="store")
            self._stack.push_async_callback(_cancelled, watching)
            url = server.url
        try:
            redis = connect(url)
        except ValueError as error:
            raise CannotStart(f"The Redis URL cannot be used: {error}") from error
        self._stack.push_async_callback(redis.aclose)
        return redis

    def _load(self) -> Generator:
        """On the model thread: the generator, resident and warm."""
        generator = self._generator
        if generator is None:
            try:
                with self._progress.bars() as show:

                    def on_progress(name: str, num_done: int, num_bytes: int) -> None:
                        if self._is_closed:
                            raise Cancelled
                        show(name, num_done, num_bytes)

                    generator = registry.load(
                        self.settings.model,
                        self.settings.device,
                        models_dir=self.settings.models_dir,
                        choices=self.settings.choices,
                        on_progress=on_progress,
                    )
            except ValueError as error:
                raise CannotStart(str(error)) from error
        log.info(
            "fitted",
            num_bytes=generator.limits.num_bytes,
            max_images={str(size): generator.max_images(size) for size in generator.sizes},
        )
        log.info(
            "compilation",
            is_compiled=generator.backbone.is_compiled,
            reason=registry.reason_not_to_compile(generator.backbone.device, self.settings.compile),
        )
        self.row_tile = registry.row_tile_of(generator)
        log.info("row_tile", num_rows=self.row_tile, is_batch_invariant=self.row_tile is not None)
        with self._progress.counter(len(generator.sizes), "warming up") as count:

            def warmed(size: Size, seconds: float) -> None:
                log.info("warmed_up", size=str(size), seconds=round(seconds, 3))
                count()

            generator.warm_up(warmed, lambda: self._is_closed)
        return generator

    def _thread_pool(self, pool: PoolT) -> PoolT:
        # Shut down off the loop: a thread may be in the middle of loading a model.
        self._stack.push_async_callback(asyncio.to_thread, pool.shutdown)
        return pool

    async def _started(self, batcher: Batcher[In, Out]) -> Batcher[In, Out]:
        await batcher.start()
        self._stack.push_async_callback(batcher.stop)
        return batcher


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
        app.include_router(playground_router())
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


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
