"""Job, Batcher: admit, group, run on the model thread, settle every future."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from bisect import insort
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from service.batching.model_thread import Failure, ModelThread, PendingOutputs
from service.batching.priority import Priority
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
log = logging.getLogger(__name__)
# Said to the first clients of a full queue, before any batch was measured.
FIRST_GUESS_SECONDS = 1.0
# How far one measured batch moves the estimate: about the last seven batches count.
NEWEST_WEIGHT = 0.25


@dataclass(slots=True, eq=False)
class Job(Generic[In, Out]):
    """One accepted unit of work. Times are in seconds of the batcher's clock.

    `future` gets the output or a ServiceError; cancelling it says that the client has gone. `started_at` and
    `num_jobs_in_batch` are set when its batch reaches the model.
    """

    input: In
    group: Hashable
    deadline: float | None
    queued_at: float
    future: asyncio.Future[Out]
    priority: Priority = Priority.NORMAL
    started_at: float | None = None
    num_jobs_in_batch: int = 0
    deadline_timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def rank(self) -> float:
        """Its turn among the waiting jobs: the lowest is next."""
        return self.priority.rank(self.queued_at)


def form_batch(queue: Sequence[Job[In, Out]], max_jobs: Callable[[Hashable], int]) -> list[Job[In, Out]]:
    """The first job with the first others of its group, in order, as many as the group's bound allows.

    The first is never taken, and ranks grow with time, so no group and no priority starves. `queue` is
    ordered by rank.
    """
    if not queue:
        return []
    group = queue[0].group
    return [job for job in queue if job.group == group][: max(1, max_jobs(group))]


class Batcher(Generic[In, Out]):
    """A bounded queue in front of the model: a batch is what queued up while the model was busy.

    `run(inputs, cancelled)` is called on the model thread and returns one output per input, in order. It may
    ask `cancelled()`, True once no client waits for any job of the batch, and may then raise Cancelled. It
    raises OutOfMemory when fewer inputs might fit. It may return PendingOutputs: the next one then runs
    while its outputs are waited for. `group` says which inputs may run together, `max_jobs` how many of a
    group. All methods belong to the event loop's thread; only `run` and `cancelled` leave it.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._run = run
        self._group = group
        self._max_jobs = max_jobs
        self._max_queued = max_queued
        self._executor = executor
        self._metrics = metrics
        self._clock = clock
        self._queue: list[Job[In, Out]] = []
        self._running: list[Job[In, Out]] = []
        self._running_since = 0.0
        self._finishing: dict[asyncio.Task[None], Sequence[Job[In, Out]]] = {}
        self._work_queued = asyncio.Event()
        self._seconds_per_job: dict[Hashable, float] = {}
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        executor.expect(lambda: self.running_seconds + self.queued_seconds)
        metrics.queue_depth.labels(queue=name).set_function(lambda: self.num_queued)
        metrics.queued_work_seconds.labels(queue=name).set_function(lambda: self.queued_seconds)

    @property
    def alive(self) -> bool:
        """Whether jobs will be run: False before start and once its loop or the model thread died."""
        return self._task is not None and not self._task.done()

    @property
    def num_queued(self) -> int:
        """Jobs waiting for the model; one whose client has gone no longer counts."""
        return len(self._waiting())

    @property
    def queued_seconds(self) -> float:
        """Estimate of the model time that the waiting jobs need."""
        return sum(self._estimate(job.group) for job in self._waiting())

    @property
    def running_seconds(self) -> float:
        """Estimate of what is left of the batch that runs; 0 once it takes longer than estimated."""
        batch = self._running
        estimate = sum(self._estimate(job.group) for job in batch)
        return max(0.0, estimate - (self._clock() - self._running_since)) if batch else 0.0

    def submit(
        self,
        inputs: Sequence[In],
        *,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> list[Job[In, Out]]:
        """Queues one job per input, all or none. `deadline` is a time of the batcher's clock.

        A job whose deadline passes, waiting or running, gets DeadlineExceeded. Raises QueueFull, NotReady
        (not started, draining or dead) and InvalidRequest (more inputs than the queue could ever hold).
        """
        self._admit(len(inputs), priority)
        loop, now = asyncio.get_running_loop(), self._clock()
        jobs = [
            Job(each, self._group(each), deadline, now, loop.create_future(), priority) for each in inputs
        ]
        for job in jobs:
            job.future.add_done_callback(partial(self._leave, job))
            self._watch_deadline(job)
            insort(self._queue, job, key=lambda each: each.rank)
        self._work_queued.set()
        return jobs

    async def start(self) -> None:
        """Starts the loop on the running event loop."""
        self._task = asyncio.create_task(self._serve(), name=f"batcher {self.name}")
        self._task.add_done_callback(self._ended)

    async def drain(self) -> None:
        """Refuses new work from now on and returns when every accepted job is settled."""
        self._draining = True
        accepted = [job.future for job in self._accepted()]
        if accepted:
            await asyncio.wait(accepted)

    async def stop(self) -> None:
        """Drains, then ends the loop. When cancelled it ends the loop at once: the jobs left get NotReady."""
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
            async with self._executor.turn:
                self._running, self._running_since = self._next_batch(), self._clock()
                await self._run_batch(self._running)
                self._running = []

    async def _run_batch(self, jobs: Sequence[Job[In, Out]]) -> None:
        jobs = [job for job in jobs if not self._gone(job)]
        if not jobs:
            return
        started_at = self._start(jobs)
        outcome = await self._executor.call(
            self._run, [job.input for job in jobs], lambda: all(job.future.done() for job in jobs)
        )
        if outcome is Failure.OUT_OF_MEMORY and len(jobs) > 1:
            self._metrics.out_of_memory_splits.labels(queue=self.name).inc()
            half = len(jobs) // 2
            await self._run_batch(jobs[:half])
            await self._run_batch(jobs[half:])
            return
        if not isinstance(outcome, Failure):
            self._measure(jobs[0].group, (self._clock() - started_at) / len(jobs))
        if isinstance(outcome, PendingOutputs):
            task = asyncio.create_task(self._finish(jobs, outcome), name=f"finish {self.name}")
            self._finishing[task] = jobs
            task.add_done_callback(self._finishing.pop)
        else:
            self._settle_all(jobs, outcome)
        if outcome is Failure.DIED:
            raise RuntimeError("The model thread was told to end.")

    async def _finish(self, jobs: Sequence[Job[In, Out]], unfinished: PendingOutputs[Out]) -> None:
        try:
            outcome = await self._executor.finish(unfinished, len(jobs))
        except Exception:  # no thread to wait on
            log.exception("Nobody could wait for a batch of %d jobs.", len(jobs))
            outcome = Failure.RAISED
        self._settle_all(jobs, outcome)

    def _admit(self, num_jobs: int, priority: Priority) -> None:
        refusal: ServiceError | None = None
        most = priority.max_places(self._max_queued)
        of_priority = "" if priority is Priority.NORMAL else f" for {priority} priority"
        if self._draining or not self.alive:
            state = "shutting down" if self._draining else "not ready"
            refusal = NotReady(
                f"The service is {state}; try again shortly.", retry_after_seconds=self._retry_after_seconds()
            )
        elif num_jobs > most:
            raise InvalidRequest(
                f"The request needs {num_jobs} places in a queue of {most}{of_priority}; ask for fewer."
            )
        elif num_jobs > self._num_free(priority):
            wait = self._retry_after_seconds()
            refusal = QueueFull(
                f"The queue has no {num_jobs} free of its {most} places{of_priority}; "
                f"try again in {math.ceil(wait)} seconds.",
                retry_after_seconds=wait,
            )
        if refusal is not None:
            self._metrics.rejections.labels(queue=self.name, reason=refusal.code).inc(num_jobs)
            raise refusal

    def _num_free(self, priority: Priority) -> int:
        waiting = self._waiting()
        num_alike = sum(job.priority is priority for job in waiting)
        most = priority.max_places(self._max_queued)
        return min(self._max_queued - len(waiting), most - num_alike)

    def _next_batch(self) -> list[Job[In, Out]]:
        self._queue = [job for job in self._queue if not self._gone(job)]
        batch = form_batch(self._queue, self._max_jobs)
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
        self._metrics.batch_size.labels(queue=self.name).observe(len(jobs))
        return now

    def _settle(self, job: Job[In, Out], outcome: Out | ServiceError) -> None:
        """The one place where a future gets its outcome; one that is cancelled or settled stays as it is."""
        if job.future.done():
            return
        if isinstance(outcome, ServiceError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)

    def _settle_all(self, jobs: Sequence[Job[In, Out]], outcome: Sequence[Out] | Failure) -> None:
        if isinstance(outcome, Failure):
            for job in jobs:
                self._settle(job, GenerationFailed(outcome.value))
        else:
            for job, output in zip(jobs, outcome, strict=True):
                self._settle(job, output)

    def _leave(self, job: Job[In, Out], _: asyncio.Future[Out]) -> None:
        """Runs once for each job, when its future is done for whatever reason."""
        if job in self._queue:
            self._queue.remove(job)
        if job.deadline_timer is not None:
            job.deadline_timer.cancel()
        # Its request and its own timer watch the same deadline: whoever looks first, it ran out of time.
        is_late = job.future.cancelled() and job.deadline is not None and job.deadline <= self._clock()
        # Reading the exception also marks it as seen: a request that gives up at the first failure of its
        # jobs would otherwise have asyncio complain about the others.
        if is_late or (not job.future.cancelled() and isinstance(job.future.exception(), DeadlineExceeded)):
            self._metrics.rejections.labels(queue=self.name, reason=DeadlineExceeded.code).inc()
        elif job.future.cancelled():
            when = "queued" if job.started_at is None else "running"
            self._metrics.cancellations.labels(queue=self.name, when=when).inc()

    def _gone(self, job: Job[In, Out]) -> bool:
        """Whether nobody waits for the job any more; a job whose time is up is told so first."""
        if job.deadline is not None and job.deadline <= self._clock():
            self._settle(
                job, DeadlineExceeded("The deadline passed before the result was there; allow more time.")
            )
        return job.future.done()

    def _watch_deadline(self, job: Job[In, Out]) -> None:
        """Looks again when the deadline is due: event loops may wake a little early."""
        if job.deadline is not None and not self._gone(job):
            delay = job.deadline - self._clock()
            loop = asyncio.get_running_loop()
            job.deadline_timer = loop.call_later(delay, self._watch_deadline, job)

    def _accepted(self) -> list[Job[In, Out]]:
        """Whatever has not ended: at the model, being finished, waiting."""
        finishing = [job for jobs in self._finishing.values() for job in jobs]
        return [*self._running, *finishing, *self._queue]

    def _waiting(self) -> list[Job[In, Out]]:
        # A copy, because a scrape may ask from another thread.
        return [job for job in tuple(self._queue) if not job.future.done()]

    def _estimate(self, group: Hashable) -> float:
        """Seconds per job; a group not measured yet is taken for as slow as the slowest that was."""
        slowest = max(self._seconds_per_job.values(), default=FIRST_GUESS_SECONDS)
        return self._seconds_per_job.get(group, slowest)

    def _measure(self, group: Hashable, seconds_per_job: float) -> None:
        before = self._seconds_per_job.get(group, seconds_per_job)
        self._seconds_per_job[group] = before + NEWEST_WEIGHT * (seconds_per_job - before)

    def _retry_after_seconds(self) -> float:
        """When all that is accepted now will have run, by other batchers on the thread, too."""
        return max(1.0, self._executor.accepted_seconds)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("The %s batcher died; it takes no more jobs.", self.name, exc_info=task.exception())
        for job in self._accepted():
            self._settle(job, NotReady("The service stopped before it ran this job.", retry_after_seconds=1))
