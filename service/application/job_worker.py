"""JobWorker: draws the jobs of all tenants, with the functions that a request uses, in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

import structlog

from service.application.caller import Caller
from service.application.generate import FinishedImage, Images, ImageStream, PreviewImage
from service.application.jobs import caller_of
from service.application.shared_exclusive_lock import SharedExclusiveLock
from service.errors import (
    GenerationFailed,
    InvalidRequest,
    NotReady,
    PayloadTooLarge,
    QueueFull,
    ServiceError,
    StoreUnavailable,
)
from service.jobs.news import JobNews
from service.jobs.queue import Claim, JobQueue, Run
from service.metrics import Metrics
from service.stage_timer import RequestTrace
from service.storage.client import cancel_until_ended
from service.tracing import Tracing

# Ten images of 1024 x 1024 in base64, and more.
MAX_RESULT_BYTES = 32 * 2**20
LEASE_SECONDS = 30.0  # that a worker's silence may last before its jobs are another's
LOOK_SECONDS = 1.0  # that a worker without jobs waits for news of one until it looks
RETRY_SECONDS = 0.5  # until a store, or a queue, that refused is asked again
T = TypeVar("T")
log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StartedJob:
    """The images of a job as they are drawn, and the result that it makes of all of them."""

    stream: ImageStream
    render: Callable[[Sequence[FinishedImage]], bytes]


# For each endpoint: begins to draw the request that was stored, as its route would.
StartJob = Callable[[bytes, Images, Caller, RequestTrace], Awaitable[StartedJob]]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of the last run of a job: its result, or its error."""

    run: Run
    result: bytes | ServiceError
    seconds: float


class JobWorker:
    """Runs up to `max_running` jobs at once, so that the model always has one to go on with.

    A job that was running when its worker died runs alone: if it is what killed the worker, it does not kill
    the others with it, and it has failed after the queue's number of attempts. `is_alone`: no other worker
    uses this queue, so that what an earlier one left can be taken at once.
    """

    def __init__(
        self,
        queue: JobQueue,
        news: JobNews,
        images: Images,
        endpoints: Mapping[str, StartJob],
        *,
        metrics: Metrics,
        max_running: int,
        is_alone: bool,
        max_result_bytes: int,
        lease_seconds: float = LEASE_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tracing: Tracing | None = None,
    ) -> None:
        self._queue = queue
        self._news = news
        self._images = images
        self._endpoints = endpoints
        self._metrics = metrics
        self._max_running = max_running
        self._is_alone = is_alone
        self._max_result_bytes = max_result_bytes
        self._lease_seconds = lease_seconds
        self._sleep = sleep
        self._tracing = tracing
        self._lock = SharedExclusiveLock(max_running)
        self._claimed: dict[str, asyncio.Task[None]] = {}  # by entry
        self._runs: dict[str, Run] = {}  # started and not ended, by entry
        self._loops: list[asyncio.Task[None]] = []
        self._is_closed = False

    def start(self) -> None:
        """Begin to take jobs, on the running event loop."""
        self._loops = [
            asyncio.create_task(self._news.listen(), name="job news"),
            asyncio.create_task(self._run(), name="job worker"),
        ]

    def close(self) -> None:
        """Take no more jobs; those that run go on."""
        self._is_closed = True

    async def stop(self) -> None:
        """Give back what has not ended."""
        self.close()
        tasks = [*self._loops, *self._claimed.values()]
        await cancel_until_ended(*tasks)
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(StoreUnavailable):  # then their leases end, or the next start takes them
            for run in self._runs.values():
                await self._queue.release(run)

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        await self._insist(self._queue.create)
        if self._is_alone:
            self._begin(await self._insist(lambda: self._queue.reclaim(idle_seconds=0.0)))
        await self._insist(self._queue.forget_workers)
        look_at = clock()
        with self._news.of(self._queue.stream) as has_new:
            while not self._is_closed:
                try:
                    if clock() >= look_at:
                        look_at = clock() + self._lease_seconds / 3
                        self._begin(await self._queue.reclaim(idle_seconds=self._lease_seconds))
                        await self._measure()
                    await self._take_jobs(has_new, look_at - clock())
                except StoreUnavailable:  # logged and counted
                    await self._sleep(RETRY_SECONDS)
                except Exception:
                    log.exception("job_worker_failed")
                    await self._sleep(RETRY_SECONDS)

    async def _take_jobs(self, has_new: asyncio.Event, seconds: float) -> None:
        """As many as may run; where there are none, or no more may, waits for that to change."""
        num_free = self._max_running - len(self._claimed)
        if num_free <= 0:
            running = list(self._claimed.values())
            await asyncio.wait(running, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            return
        has_new.clear()
        claims = await self._queue.take(num_free)
        self._begin(claims)
        if not claims:
            with suppress(TimeoutError):  # news can be lost with the connection to Redis
                async with asyncio.timeout(LOOK_SECONDS):
                    await has_new.wait()

    def _begin(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if claim.entry not in self._claimed:  # else our own, whose lease could not be renewed in time
                task = asyncio.create_task(self._handle(claim), name=f"job {claim.job_id}")
                self._claimed[claim.entry] = task

    async def _handle(self, claim: Claim) -> None:
        """Draws the job and keeps its result, unless it is cancelled or lost to another worker."""
        structlog.contextvars.bind_contextvars(job_id=claim.job_id)
        try:
            with self._news.of(claim.job_id) as has_changed:
                drawing = asyncio.create_task(self._outcome(claim))
                lost = asyncio.create_task(self._until_lost(claim, drawing, has_changed))
                try:
                    await asyncio.wait({drawing, lost}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    lost.cancel()
                    is_drawn = drawing.done()
                    drawing.cancel()
                    await asyncio.gather(drawing, lost, return_exceptions=True)
            if is_drawn and (outcome := drawing.result()) is not None:
                await self._keep(outcome)
            self._runs.pop(claim.entry, None)
        except Exception:  # it stays claimed in Redis, and is found again when its lease has ended
            log.exception("job_not_finished")
            self._runs.pop(claim.entry, None)
        finally:
            del self._claimed[claim.entry]

    async def _until_lost(
        self, claim: Claim, drawing: asyncio.Task[_Outcome | None], has_changed: asyncio.Event
    ) -> None:
        """Renews the lease until the job is no longer this worker's, or is drawn: redis-py may lose a
        cancellation while its connection breaks.
        """
        while not drawing.done():
            has_changed.clear()
            with suppress(StoreUnavailable):
                if not await self._queue.renew(claim.entry):
                    return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease_seconds / 3):
                    await has_changed.wait()

    async def _outcome(self, claim: Claim) -> _Outcome | None:
        """Of the first attempt that succeeds, or ends in an error that another one would not mend. None when
        the job has ended before.
        """
        cause: ServiceError | None = None
        while True:
            attempts = await self._insist(lambda: self._queue.attempts(claim))
            async with self._lock.exclusive() if attempts else self._lock.shared():
                run = await self._insist(lambda: self._queue.start(claim))
                if run is None:
                    return None
                self._runs[claim.entry] = run
                if run.attempts_before:
                    reason = "worker_died" if cause is None else "failed"
                    self._metrics.job_retries.labels(reason=reason).inc()
                if run.attempts_before >= self._queue.max_attempts:
                    return _Outcome(run, _exhausted(run, cause), 0.0)
                began = time.monotonic()
                try:
                    result = await self._traced(run)
                    return _Outcome(run, result, time.monotonic() - began)
                except ServiceError as error:
                    if error.status < 500:
                        return _Outcome(run, error, 0.0)
                    cause = error
                except Exception:
                    log.exception("job_failed")
                    cause = ServiceError(
                        "Something failed on our side; the log has the details under this job."
                    )

    async def _traced(self, run: Run) -> bytes:
        """`_drawn`, as a part of the trace of the request that queued the job."""
        trace = RequestTrace()
        if self._tracing is None:
            return await self._drawn(run, trace)
        traced = self._tracing.begin({"traceparent": run.owner.traceparent}, is_job=True)
        attributes: dict[str, object] = {
            "atelier.job": run.job_id,
            "atelier.attempt": run.attempts_before + 1,
        }
        try:
            with structlog.contextvars.bound_contextvars(**traced.ids):
                return await self._drawn(run, trace)
        except BaseException as error:
            attributes["error.type"] = error.code if isinstance(error, ServiceError) else type(error).__name__
            raise
        finally:
            self._tracing.end(traced, trace, f"job {run.endpoint}", attributes)

    async def _drawn(self, run: Run, trace: RequestTrace) -> bytes:
        """The result of one attempt."""
        started = await self._begin_to_draw(run, trace)
        stream, images = started.stream, list[FinishedImage]()
        fractions: dict[int, float] = {}
        try:
            async for update in stream.updates():
                is_preview = isinstance(update, PreviewImage)
                if isinstance(update, PreviewImage):
                    fractions[update.planned.index] = update.preview.step / update.preview.num_steps
                else:
                    fractions[update.planned.index] = 1.0
                    images.append(update)
                progress = sum(fractions.values()) / stream.num_images
                with suppress(StoreUnavailable):
                    await self._queue.report(run, progress, update.file if is_preview else None)
        finally:
            stream.close()
        result = started.render(sorted(images, key=attrgetter("planned.index")))
        if len(result) > self._max_result_bytes:
            raise PayloadTooLarge(
                f"The images of this job take {len(result)} bytes as JSON, and {self._max_result_bytes} are "
                "kept. Ask for fewer images, for smaller ones, or for output_format jpeg or webp.",
                code="result_too_large",
            )
        return result

    async def _begin_to_draw(self, run: Run, trace: RequestTrace) -> StartedJob:
        """Waits where the queue is full, the service is not ready or the store does not answer."""
        start_job = self._endpoints.get(run.endpoint)
        if run.request is None or start_job is None:
            raise InvalidRequest("The request of this job cannot be read (any more); send it again.")
        while True:
            try:
                return await start_job(run.request, self._images, caller_of(run.owner), trace)
            except (QueueFull, NotReady, StoreUnavailable) as error:
                log.warning("job_waits", reason=error.code)
                await self._sleep(RETRY_SECONDS)

    async def _keep(self, outcome: _Outcome) -> None:
        run, result = outcome.run, outcome.result
        if isinstance(result, ServiceError):
            is_ours = await self._insist(lambda: self._queue.fail(run, result))
            status = "failed"
        else:
            is_ours = await self._insist(lambda: self._queue.succeed(run, result, outcome.seconds))
            status = "succeeded"
        if not is_ours:
            log.warning("job_lost", run=run.number)
            return
        self._metrics.jobs.labels(outcome=status).inc()
        if status == "succeeded":
            self._metrics.job_duration_seconds.observe(outcome.seconds)
        failure = {"failure": result.code} if isinstance(result, ServiceError) else {}
        log.info(
            "job",
            status=status,
            attempt=run.attempts_before + 1,
            seconds=round(outcome.seconds, 4),
            **failure,
        )

    async def _measure(self) -> None:
        num_open, seconds = await self._queue.size()
        self._metrics.jobs_open.set(num_open)
        self._metrics.jobs_open_seconds.set(num_open * (seconds or 0.0))

    async def _insist(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The result, however long the store is away: what is drawn is not thrown away for that."""
        while True:
            try:
                return await operation()
            except StoreUnavailable:
                await self._sleep(RETRY_SECONDS)


def _exhausted(run: Run, cause: ServiceError | None) -> GenerationFailed:
    last = "Its worker died." if cause is None else cause.message
    return GenerationFailed(
        f"The job was started {run.attempts_before} times, and failed each time. The last time: {last}",
        code="attempts_exhausted",
    )
