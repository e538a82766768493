"""Batcher: admit, group, run on the model thread, settle every future."""

from __future__ import annotations

import asyncio
import math
import time
from bisect import insort
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from operator import attrgetter
from typing import Generic, TypeVar

import structlog

from service.batching.durations import BatchDurations
from service.batching.job_queue import NO_OWNER, FairTurns, Job, Owner, form_batch, free_places
from service.batching.model_thread import BatchFailure, ModelThread, PendingOutputs
from service.batching.priority import SHARES, YIELDS_SECONDS, Priority
from service.errors import (
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    NotReady,
    QueueFull,
    ServiceError,
)
from service.metrics import Metrics

In = TypeVar("In")
Out = TypeVar("Out")
log = structlog.stdlib.get_logger(__name__)


class Batcher(Generic[In, Out]):
    """A bounded queue in front of the model: a batch is what queued up while the model was busy. Owners, such
    as API keys, take turns.

    `run(inputs, cancelled)` is called on the model thread and returns one output per input, in order. It may
    raise Cancelled once `cancelled()` is True, which says that no client waits for the batch any more, and
    OutOfMemory when fewer inputs might fit. When it returns PendingOutputs, the next batch runs while these
    are waited for. `group` says which inputs may run together, `max_jobs` how many of a group, and
    `max_fitting` how many would fit into the memory for batches. One that `yields` runs its batches while no
    other batcher of the thread has work, and pauses them after each step for as long as one has. All methods
    belong to the event loop's thread; only `run` and `cancelled` leave it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[In], Callable[[], bool]], Sequence[Out] | PendingOutputs[Out]],
        *,
        name: str,
        group: Callable[[In], Hashable],
        max_jobs: Callable[[Hashable], int],
        max_queued: int,
        executor: ModelThread,
        metrics: Metrics,
        yields: bool = False,
        max_fitting: Callable[[Hashable], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._run = run
        self._group = group
        self._max_jobs = max_jobs
        self._max_fitting = max_fitting or max_jobs
        self._yields = yields
        self._max_queued = max_queued
        self._executor = executor
        self._metrics = metrics
        self._clock = clock
        self._queue: list[Job[In, Out]] = []
        self._running: list[Job[In, Out]] = []
        self._running_since = 0.0
        self._finishing: dict[asyncio.Task[None], Sequence[Job[In, Out]]] = {}
        self._work_queued = asyncio.Event()
        self._turns = FairTurns()
        self._durations = BatchDurations()
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        if not yields:  # what yields makes no other wait
            executor.add_work(
                lambda: self.running_seconds + self.queued_seconds, lambda: self.alive and self._has_work
            )
        metrics.queue_depth.labels(queue=name).set_function(lambda: self.num_queued)
        metrics.queue_wait_seconds.labels(queue=name)  # so that a rate sees the first job, too
        metrics.batch_size.labels(queue=name)
        metrics.queued_work_seconds.labels(queue=name).set_function(lambda: self.queued_seconds)

    @property
    def alive(self) -> bool:
        """Whether jobs will be run: False before start and once its loop or the model thread died."""
        return self._task is not None and not self._task.done()

    @property
    def _has_work(self) -> bool:
        return bool(self._queue or self._running)

    @property
    def num_queued(self) -> int:
        """Jobs waiting for the model, without those whose client disconnected."""
        return len(self._waiting())

    @property
    def queued_seconds(self) -> float:
        """Estimate of the model time that the waiting jobs need."""
        return self._durations.of_queue([job.group for job in self._waiting()], self._max_jobs)

    @property
    def running_seconds(self) -> float:
        """Estimate of what is left of the batch that runs; 0 once it takes longer than estimated."""
        if not self._running:
            return 0.0
        estimate = self._durations.of_batch(self._running[0].group, len(self._running))
        return max(0.0, estimate - (self._clock() - self._running_since))

    def submit(
        self,
        inputs: Sequence[In],
        *,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
        owner: Owner = NO_OWNER,
    ) -> list[Job[In, Out]]:
        """Queues one job per input, all or none. `deadline` is a time of the batcher's clock.

        A job whose deadline passes, waiting or running, gets DeadlineExceeded. Raises QueueFull, NotReady
        (not started, draining or dead) and InvalidRequest (more inputs than the queue could ever hold).
        """
        self._admit(len(inputs), priority, owner)
        now, loop = self._clock(), asyncio.get_running_loop()
        rank = now + YIELDS_SECONDS[priority]
        jobs = [
            Job(job_input, self._group(job_input), deadline, now, loop.create_future(), priority, rank, owner)
            for job_input in inputs
        ]
        for job in jobs:
            job.future.add_done_callback(partial(self._on_done, job))
            if deadline is not None:
                self._watch_deadline(job, deadline)
            insort(self._queue, job, key=attrgetter("rank"))
        self._work_queued.set()
        return jobs

    async def start(self) -> None:
        """Starts the loop on the running event loop."""
        self._task = asyncio.create_task(self._serve(), name=f"batcher {self.name}")
        self._task.add_done_callback(self._on_end)

    async def ended(self) -> None:
        """Returns once no job will be run any more, for whatever reason: see `alive`."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def drain(self) -> None:
        """Refuses new work from now on and returns when every accepted job is settled."""
        self._draining = True
        accepted = [job.future for job in self._accepted()]
        if accepted:
            await asyncio.wait(accepted)

    async def stop(self) -> None:
        """Drains, then ends the loop. When cancelled, ends it at once: unfinished jobs get NotReady."""
        try:
            await self.drain()
        finally:
            if self._task is not None:
                for task in (self._task, *self._finishing):
                    task.cancel()
                    await asyncio.wait([task])

    async def _serve(self) -> None:
        while True:
            await self._work_queued.wait()
            async with self._executor.idle() if self._yields else self._executor.turn:
                self._running, self._running_since = self._next_batch(), self._clock()
                await self._run_batch(self._running)
                self._running = []
            self._executor.has_settled()

    async def _run_batch(self, jobs: Sequence[Job[In, Out]]) -> None:
        jobs = [job for job in jobs if not self._is_done(job)]
        if not jobs:
            return
        inputs, started_at = [job.input for job in jobs], self._start(jobs)
        paused_seconds = self._executor.paused_seconds
        outcome = await self._executor.call(
            self._run,
            inputs,
            lambda: all(job.future.done() for job in jobs),
            share=len(jobs) / max(1, self._max_fitting(jobs[0].group)),
            yields=self._yields,
        )
        if outcome is BatchFailure.OUT_OF_MEMORY and len(jobs) > 1:
            self._metrics.out_of_memory_splits.labels(queue=self.name).inc()
            await self._run_batch(jobs[: len(jobs) // 2])
            await self._run_batch(jobs[len(jobs) // 2 :])
            return
        if outcome is BatchFailure.CANCELLED and self._yields and self._requeue(jobs):
            return
        self._metrics.batch_size.labels(queue=self.name).observe(len(jobs))
        if not isinstance(outcome, BatchFailure):
            paused_seconds = self._executor.paused_seconds - paused_seconds if self._yields else 0.0
            self._durations.measure(jobs[0].group, len(jobs), self._clock() - started_at - paused_seconds)
        self._settle_all(jobs, outcome)
        if outcome is BatchFailure.DIED:
            raise RuntimeError("The model thread has ended.")

    async def _finish(self, jobs: Sequence[Job[In, Out]], pending: PendingOutputs[Out]) -> None:
        outcome: list[Out] | BatchFailure = BatchFailure.RAISED
        try:
            outcome = await self._executor.finish(pending, len(jobs))
        except Exception:  # there is no thread to wait on
            log.exception("waiting_for_outputs_failed", num_jobs=len(jobs))
        self._settle_all(jobs, outcome)
        if outcome is BatchFailure.DIED and self._task is not None:
            self._task.cancel()

    def _requeue(self, jobs: Sequence[Job[In, Out]]) -> bool:
        """Puts what was preempted back to where it was; False where nobody waits for it any more."""
        preempted = [job for job in jobs if not self._is_done(job)]
        for job in preempted:
            insort(self._queue, job, key=attrgetter("rank"))
            self._work_queued.set()
        return bool(preempted)

    def _admit(self, num_jobs: int, priority: Priority, owner: Owner) -> None:
        bound = max(1, int(self._max_queued * SHARES[priority]))
        waiting, of_priority = self._waiting(), ""
        num_free = free_places(waiting, self._max_queued, owner)
        if priority is not Priority.NORMAL:
            of_priority = f" of {priority} priority"
            num_free = min(num_free, max(0, bound - sum(job.priority is priority for job in waiting)))
        refusal: type[ServiceError]
        if self._draining or not self.alive:
            refusal = NotReady
            message = f"The service is {'shutting down' if self._draining else 'not ready'}."
        elif num_jobs > bound:
            raise InvalidRequest(
                f"The request has {num_jobs} jobs, and the queue holds at most {bound}{of_priority}; ask for "
                "fewer."
            )
        elif num_jobs > num_free:
            refusal = QueueFull
            message = (
                f"The queue holds at most {bound} jobs{of_priority} and can take {num_free} more; the "
                f"request has {num_jobs}."
            )
        else:
            return
        self._metrics.rejections.labels(queue=self.name, reason=refusal.code).inc(num_jobs)
        # When all that is accepted now will have run, work of other batchers on the thread included.
        wait = max(1.0, self._executor.accepted_seconds)
        raise refusal(f"{message} Try again in {math.ceil(wait)} seconds.", retry_after_seconds=wait)

    def _next_batch(self) -> list[Job[In, Out]]:
        self._queue = [job for job in self._queue if not self._is_done(job)]
        batch = form_batch(self._turns.order(self._queue, self._clock()), self._max_jobs)
        self._turns.start(batch)
        self._queue = [job for job in self._queue if job not in batch]
        if not self._queue:
            self._work_queued.clear()
        return batch

    def _start(self, jobs: Sequence[Job[In, Out]]) -> float:
        now = self._clock()
        for job in jobs:
            job.num_jobs_in_batch = len(jobs)
            if job.started_at is None:  # else: half of a batch that did not fit, started long ago
                job.started_at = now
                self._metrics.queue_wait_seconds.labels(queue=self.name).observe(now - job.queued_at)
        return now

    def _settle_all(
        self, jobs: Sequence[Job[In, Out]], outcome: Sequence[Out] | PendingOutputs[Out] | BatchFailure
    ) -> None:
        """Gives each job its output or error; pending outputs are awaited while the next batch runs."""
        if isinstance(outcome, PendingOutputs):
            task = asyncio.create_task(self._finish(jobs, outcome), name=f"finish {self.name}")
            self._finishing[task] = jobs
            task.add_done_callback(self._finishing.pop)
        elif isinstance(outcome, BatchFailure):
            for job in jobs:
                _settle(job, GenerationFailed(outcome.value))
        else:
            for job, output in zip(jobs, outcome, strict=True):
                _settle(job, output)

    def _on_done(self, job: Job[In, Out], _: asyncio.Future[Out]) -> None:
        """Runs once for each job, when its future is done for whatever reason."""
        if job in self._queue:
            self._queue.remove(job)
        if job.deadline_timer is not None:
            job.deadline_timer.cancel()
        # The request and the job's own timer watch the same deadline: either may be the first to notice.
        is_late = job.future.cancelled() and job.deadline is not None and job.deadline <= self._clock()
        # Reading the exception also marks it as retrieved: when a request gives up at the first failure of
        # its jobs, asyncio would otherwise complain about the others.
        if is_late or (not job.future.cancelled() and isinstance(job.future.exception(), DeadlineExceeded)):
            self._metrics.rejections.labels(queue=self.name, reason=DeadlineExceeded.code).inc()
        elif job.future.cancelled():
            when = "queued" if job.started_at is None else "running"
            self._metrics.cancellations.labels(queue=self.name, when=when).inc()

    def _is_done(self, job: Job[In, Out]) -> bool:
        """Whether the job has its outcome; fails it first when its deadline has passed."""
        if job.deadline is not None and job.deadline <= self._clock():
            message = "The deadline passed before the result was there; allow more time."
            _settle(job, DeadlineExceeded(message))
        return job.future.done()

    def _watch_deadline(self, job: Job[In, Out], deadline: float) -> None:
        """Looks again when the deadline is due: event loops may wake a little early."""
        if not self._is_done(job):
            delay = deadline - self._clock()
            loop = asyncio.get_running_loop()
            job.deadline_timer = loop.call_later(delay, self._watch_deadline, job, deadline)

    def _accepted(self) -> list[Job[In, Out]]:
        """Every job that has not ended: running, finishing or waiting."""
        finishing = [job for jobs in self._finishing.values() for job in jobs]
        return [*self._running, *finishing, *self._queue]

    def _waiting(self) -> list[Job[In, Out]]:
        # A copy, because a scrape may ask from another thread.
        return [job for job in tuple(self._queue) if not job.future.done()]

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("batcher_died", queue=self.name, exc_info=task.exception())
        for job in self._accepted():
            _settle(job, NotReady("The service stopped before it ran this job.", retry_after_seconds=1))


def _settle(job: Job[In, Out], outcome: Out | ServiceError) -> None:
    """Gives a future its outcome, here and nowhere else; one that is done stays as it is."""
    if job.future.done():
        return
    if isinstance(outcome, ServiceError):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
