"""create_app: wires the parts; owns start, drain and stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

import structlog
from fastapi import Depends, FastAPI
from redis.asyncio import Redis

from service import __version__
from service.access.idempotency_store import IdempotencyStore
from service.access.keyring import ReloadingKeyring, require_guard
from service.access.rate_limiter import RateLimiter
from service.application.extract_style import Extracted, Extraction, ToRead, extracting_on
from service.application.upload_limiter import UploadLimiter
from service.batching.batcher import Batcher
from service.batching.model_thread import ModelThread, PendingOutputs
from service.cli.progress import bars, counter
from service.http import health, images, models, styles
from service.http.dependencies import Parts, Readiness
from service.http.error_handlers import install_problems
from service.http.middleware.auth import BEARER, Authentication
from service.http.middleware.body_limits import BodyLimit
from service.http.middleware.idempotency import Idempotency
from service.http.middleware.rate_limits import RateLimits
from service.http.middleware.telemetry import Telemetry
from service.http.middleware.timeout import RequestTimeout
from service.http.openapi import docs_page as docs
from service.http.openapi.document import DESCRIPTION, complete
from service.http.schemas.base import ProblemResponse
from service.metrics import Metrics
from service.model.checkpoints import registry as presets
from service.model.engine.generator import Generator, PendingBatch
from service.model.engine.types import BatchKey, Drawing, ImageSpec
from service.model.schedule import Size
from service.settings import Settings
from service.storage.client import connect
from service.storage.embedded_valkey.files import EmbeddedValkeyError
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.styles.store import StyleStore

# Decoding takes up to 17 bytes a pixel of the upload, so this also bounds memory.
NUM_DECODING_THREADS = 2
NUM_ENCODING_THREADS = 2

In = TypeVar("In")
Out = TypeVar("Out")
PoolT = TypeVar("PoolT", bound=ThreadPoolExecutor)

log = structlog.stdlib.get_logger("atelier")


class CannotStart(Exception):
    """Why the service does not start, in a sentence for the person who started it."""


class Service:
    """The parts of one app from start to stop. `settled` is set once the start has succeeded or failed."""

    def __init__(
        self,
        settings: Settings,
        keyring: ReloadingKeyring,
        generator: Generator | None,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.keyring = keyring
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.settled = asyncio.Event()
        self.failure: Exception | None = None
        self.row_tile: int | None = None  # of the loaded model, see `registry.row_tile_of`
        self._generator = generator
        self._clock = clock
        self._stack = AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self.metrics.ready.set_function(lambda: float(self.readiness.is_ready))

    def start(self) -> None:
        """Begin to open the store and to load the model; the event loop stays free meanwhile."""
        self._starting = asyncio.create_task(self._start(), name="start")

    def close(self) -> None:
        """Refuse new requests from now on; those that were accepted go on."""
        self.readiness.close(
            "The service is shutting down; send the request to another replica, or again later."
        )

    async def stop(self) -> None:
        """Finish what was accepted, then give everything back in the reverse order of its start."""
        self.close()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._stack.aclose()

    async def _start(self) -> None:
        try:
            self.readiness.open(await self._wire())
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

    async def _wire(self) -> Parts:
        redis = await self._open_redis()
        model_thread = self._thread_pool(ModelThread())
        decoding = self._thread_pool(ThreadPoolExecutor(NUM_DECODING_THREADS, thread_name_prefix="decode"))
        encoding = self._thread_pool(ThreadPoolExecutor(NUM_ENCODING_THREADS, thread_name_prefix="encode"))
        generator = await asyncio.get_running_loop().run_in_executor(model_thread, self._load)
        self.metrics.build_info.info(
            {"version": __version__, "model": generator.name, "fingerprint": generator.fingerprint}
        )
        generation = await self._start_generation(generator, model_thread)
        extraction = await self._start_extraction(generator, model_thread)

        store = StyleStore(redis, extractor=Extraction(generator, extraction, decoding), metrics=self.metrics)
        # The embedded store has this one replica, whose own counts are exact and cost no write to the disk.
        is_shared = self.settings.redis_url is not None
        return Parts(
            settings=self.settings,
            metrics=self.metrics,
            generator=generator,
            generation=generation,
            store=store,
            rates=RateLimiter(redis if is_shared else None, metrics=self.metrics),
            answers=IdempotencyStore(redis, metrics=self.metrics, seconds=self.settings.idempotency_seconds),
            uploads=UploadLimiter(
                name="upload", max_places=self.settings.max_queued_uploads, metrics=self.metrics
            ),
            decoding=decoding,
            encoding=encoding,
            alive=lambda: generation.alive and extraction.alive,
            created=int(time.time()),
        )

    async def _start_generation(
        self, generator: Generator, model_thread: ModelThread
    ) -> Batcher[ImageSpec, Drawing]:
        def max_jobs(key: Hashable) -> int:
            assert isinstance(key, BatchKey)
            return generator.max_images(key.size)

        return await self._started(
            Batcher(
                _observed(generator, self.metrics),
                name="generate",
                group=lambda spec: spec.batch_key,
                max_jobs=max_jobs,
                max_queued=self.settings.max_queued,
                executor=model_thread,
                metrics=self.metrics,
            )
        )

    async def _start_extraction(
        self, generator: Generator, model_thread: ModelThread
    ) -> Batcher[ToRead, Extracted]:
        return await self._started(
            Batcher(
                extracting_on(generator, self.metrics, self._clock),
                name="extract",
                group=lambda each: each.size,
                # One at a time: together they would not be faster, and an image would have to wait for all.
                max_jobs=lambda _: 1,
                max_queued=self.settings.max_queued,
                executor=model_thread,
                metrics=self.metrics,
            )
        )

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
                with bars() as on_progress:
                    generator = presets.load(
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
        self.row_tile = presets.row_tile_of(generator)
        log.info("row_tile", num_rows=self.row_tile, is_batch_invariant=self.row_tile is not None)
        with counter(len(generator.sizes), "warming up") as count:

            def warmed(size: Size, seconds: float) -> None:
                log.info("warmed_up", size=str(size), seconds=round(seconds, 3))
                count()

            generator.warm_up(warmed)
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
    clock: Callable[[], float] = time.perf_counter,
) -> FastAPI:
    """The ASGI app; its lifespan starts and stops a Service, found at `app.state.service`.

    Without a generator the model of the settings is loaded, while `/livez` answers and `/readyz` says 503.
    `clock` measures the durations that clients and metrics are told, in seconds.
    CannotStart when the API keys cannot be read, or there are none where there must be.
    """
    try:
        keyring = ReloadingKeyring(settings)
        require_guard(settings, keyring.now)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    service = Service(settings, keyring, generator, clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
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
    install_problems(app)
    for routes in (images, styles, models):
        app.include_router(routes.router, dependencies=[Depends(BEARER)] if len(keyring.now) else [])
    app.include_router(health.router)
    app.include_router(docs.router)
    app.openapi = complete(app)  # type: ignore[method-assign]
    # The last one added is the outermost.
    app.add_middleware(Idempotency, readiness=service.readiness)
    app.add_middleware(BodyLimit, max_upload_bytes=settings.max_upload_bytes)
    app.add_middleware(RateLimits, readiness=service.readiness)
    app.add_middleware(Authentication, keyring=keyring, metrics=service.metrics)
    app.add_middleware(RequestTimeout, allowed_seconds=settings.request_timeout_seconds)
    app.add_middleware(Telemetry, metrics=service.metrics, clock=clock)
    return app


def _observed(
    generator: Generator, metrics: Metrics
) -> Callable[[Sequence[ImageSpec], Callable[[], bool]], list[Drawing] | PendingOutputs[Drawing]]:
    """`generator.draw`, its durations counted once a batch: the drawings of a batch share them."""

    def run(
        specs: Sequence[ImageSpec], cancelled: Callable[[], bool]
    ) -> list[Drawing] | PendingOutputs[Drawing]:
        drawn = generator.draw(specs, cancelled)
        counted = partial(_counted, drawn, metrics)
        return counted() if drawn.is_ready else PendingOutputs(counted)

    return run


def _counted(drawn: PendingBatch, metrics: Metrics) -> list[Drawing]:
    drawings = drawn.drawings()
    timings = drawings[0].timings
    for stage in ("text", "transformer", "decode"):
        seconds = getattr(timings, f"{stage}_seconds")
        metrics.stage_duration_seconds.labels(stage=stage).observe(seconds)
    for step, seconds in enumerate(timings.step_seconds, start=1):
        metrics.step_duration_seconds.labels(step=str(step)).observe(seconds)
    metrics.batch_rows.observe(timings.num_rows)
    metrics.content_paths_shared.inc(timings.num_content_paths_shared)
    return drawings


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
