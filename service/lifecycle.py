"""Service: all that one app runs, from its start to its stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import structlog
from redis.asyncio import Redis

from service import __version__
from service.access.idempotency_store import IdempotencyStore
from service.access.keyring import ReloadingKeyring
from service.access.rate_limiter import RateLimiter
from service.application.extract_style import Extraction, Styles, extraction_batcher
from service.application.generate import Images
from service.application.generation_batcher import generation_batcher, max_background_images
from service.application.job_worker import MAX_RESULT_BYTES, JobWorker
from service.application.jobs import Jobs
from service.application.model_names import ModelNames
from service.application.upload_limiter import UploadLimiter
from service.application.uploads import PictureReader
from service.application.webhook_sender import WebhookSender, pause_seconds
from service.batching.batcher import Batcher
from service.batching.model_thread import ModelThread
from service.http import images
from service.http.dependencies import Readiness, ReadyService
from service.jobs.news import JobNews
from service.jobs.queue import JobQueue
from service.jobs.store import JobBounds, JobStore
from service.media.c2pa_signer import C2paSigner
from service.metrics import Metrics
from service.model.checkpoints import registry
from service.model.engine.generator import Cancelled, Generator
from service.model.schedule import Size
from service.settings import Settings
from service.storage.client import cancel_until_ended, connect
from service.storage.embedded_valkey.files import EmbeddedValkeyError
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.styles.store import StyleStore
from service.tracing import Tracing
from service.webhooks.deliveries import Deliveries
from service.webhooks.target import WebhookRules

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
        thread = self._thread_pool(ModelThread(settings.job_min_share))
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
            pause=partial(pause_seconds, first_seconds=settings.webhook_retry_seconds),
        )
        sending = asyncio.create_task(sender.run(), name="webhooks")
        self._stack.push_async_callback(cancel_until_ended, sending)
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
            self._stack.push_async_callback(cancel_until_ended, watching)
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
        self._warm_up(generator)
        return generator

    def _warm_up(self, generator: Generator) -> None:
        num, num_done = generator.num_warm_ups, 0
        what = "compiling" if generator.backbone.is_compiled else "warming up"
        with self._progress.counter(num, what) as count:

            def warmed(size: Size, seconds: float) -> None:
                log.info("warmed_up", size=str(size), seconds=round(seconds, 3))

            def drawn() -> None:
                nonlocal num_done
                num_done += 1
                self.readiness.tell(f"The model is {what}: {num_done} of {num} kinds of batches are done.")
                count()

            generator.warm_up(warmed, lambda: self._is_closed, drawn)

    def _thread_pool(self, pool: PoolT) -> PoolT:
        # Shut down off the loop: a thread may be in the middle of loading a model.
        self._stack.push_async_callback(asyncio.to_thread, pool.shutdown)
        return pool

    async def _started(self, batcher: Batcher[In, Out]) -> Batcher[In, Out]:
        await batcher.start()
        self._stack.push_async_callback(batcher.stop)
        return batcher
