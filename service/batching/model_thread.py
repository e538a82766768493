"""ModelThread: the one thread on which the model runs, and how a call there can end."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from service.model.engine.generator import Cancelled, OutOfMemory, is_device_failure

In = TypeVar("In")
Out = TypeVar("Out")
# How often a batch that has paused looks whether it may go on: nothing tells it of cancelled requests.
PAUSE_SECONDS = 0.002
log = structlog.stdlib.get_logger(__name__)


class BatchFailure(Enum):
    """Why a batch has no outputs; the value is the message for its clients."""

    RAISED = "The model failed on this job; the service's log says why. Trying again may help."
    OUT_OF_MEMORY = "This job alone does not fit into the model's memory; ask for a smaller size."
    CANCELLED = "The batch stopped because all its clients disconnected."
    DIED = "The model stopped in the middle of this job; the service has to be restarted."


@dataclass(frozen=True, slots=True)
class PendingOutputs(Generic[Out]):
    """A batch that no longer needs the model thread: `outputs` waits for the rest, on any other thread."""

    outputs: Callable[[], Sequence[Out]]


@dataclass(slots=True)
class _Call:
    """Work for the thread, which returns its outcome and raises nothing."""

    work: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    is_started: bool = False


class ModelThread(ThreadPoolExecutor):
    """The one model thread, and `turn`, the right to use it, which batchers get in turn.

    A batcher forms its batch once it has the turn, so that the batch holds all that queued up while the model
    was busy, with another batcher's work too.

    A batch that yields, of which there is one at a time, takes no turn. Between two of its steps it pauses
    while other batchers have work, which runs inside the pause, on the same thread; at least `min_share` of
    the time is for its steps, so that it does not wait for ever. Where memory does not suffice for both, it
    is preempted: it ends as CANCELLED, to be run again once no other batcher has work.
    """

    def __init__(self, min_share: float = 0.0, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(max_workers=1, thread_name_prefix="model")
        self._min_share = min_share
        self._clock = clock
        self._step_began = 0.0  # of the batch that yields
        self._step_due = 0.0 if min_share else math.inf  # from then on it goes before the others
        self.turn = asyncio.Lock()
        self.paused_seconds = 0.0  # of all batches that yielded
        self._has_settled = asyncio.Event()
        self._accepted: list[Callable[[], float]] = []
        self._has_work: list[Callable[[], bool]] = []
        self._calls: deque[_Call] = deque()
        self._was_called = threading.Event()
        self._yielding_share = 0.0  # of the memory for batches, that the one that yields takes
        self._is_preempted = False

    def add_work(self, seconds: Callable[[], float], has_work: Callable[[], bool]) -> None:
        """Register a batcher by the estimate of the seconds that its accepted jobs need the thread, and by
        whether it has any; the thread itself asks that, too.
        """
        self._accepted.append(seconds)
        self._has_work.append(has_work)

    @property
    def accepted_seconds(self) -> float:
        """Estimate of when all that its batchers have accepted will have run."""
        return sum(seconds() for seconds in self._accepted)

    @property
    def is_wanted(self) -> bool:
        """Whether a batcher that does not yield has work."""
        return any(has_work() for has_work in self._has_work)

    def has_settled(self) -> None:
        """A batcher says that a batch of its own has ended."""
        self._has_settled.set()

    @asynccontextmanager
    async def idle(self) -> AsyncIterator[None]:
        """Entered once no batcher that does not yield has work, or a step of the one that yields is due."""
        while self.is_wanted and (seconds := self._step_due - self._clock()) > 0:
            self._has_settled.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                    await self._has_settled.wait()
        yield

    async def call(
        self,
        run: Callable[[Sequence[In], Callable[[], bool]], Sequence[Out] | PendingOutputs[Out]],
        inputs: Sequence[In],
        cancelled: Callable[[], bool],
        *,
        share: float = 1.0,
        yields: bool = False,
    ) -> list[Out] | PendingOutputs[Out] | BatchFailure:
        """The outputs of `run(inputs, cancelled)`, one for each input, or why there are none.

        `share` of the memory for batches is what it takes. The log has the trace. Raises only when the thread
        itself was shut down (RuntimeError).
        """
        if yields:
            self._yielding_share, self._is_preempted = share, False
            run, cancelled = partial(self._timed, run), partial(self._pause, cancelled)
        elif self._yielding_share + share > 1:
            self._is_preempted = True
        call = _Call(partial(_outcome, partial(run, inputs, cancelled), len(inputs)))
        self._calls.append(call)
        self._was_called.set()
        try:
            self.submit(self._run_next)
            outcome: list[Out] | PendingOutputs[Out] | BatchFailure = await asyncio.wrap_future(call.future)
        finally:
            if yields:
                self._yielding_share = 0.0
        return outcome

    async def finish(self, pending: PendingOutputs[Out], num_jobs: int) -> list[Out] | BatchFailure:
        """The outputs of a pending batch, waited for on a thread beside the model's."""
        outcome = await asyncio.to_thread(_outcome, pending.outputs, num_jobs)
        assert not isinstance(outcome, PendingOutputs)
        return outcome

    def _timed(
        self,
        run: Callable[[Sequence[In], Callable[[], bool]], Sequence[Out] | PendingOutputs[Out]],
        inputs: Sequence[In],
        cancelled: Callable[[], bool],
    ) -> Sequence[Out] | PendingOutputs[Out]:
        """Runs a batch that yields, with the time of its first and its last step."""
        self._step_began = self._clock()
        try:
            return run(inputs, cancelled)
        finally:
            self._end_step()

    def _end_step(self) -> None:
        now = self._clock()
        if self._min_share:
            # One that is preempted would begin in vain: it waits until there is no other work.
            pause = math.inf if self._is_preempted else (now - self._step_began) / self._min_share
            self._step_due = now + pause

    def _pause(self, cancelled: Callable[[], bool]) -> bool:
        """After a step of the batch that yields: runs what others have until the next step is due. Returns
        whether the batch must stop.
        """
        self._end_step()
        began = self._clock()
        while self.is_wanted and not self._is_preempted and self._clock() < self._step_due:
            if self._calls:
                self._run_next(is_nested=True)
            else:
                self._was_called.wait(PAUSE_SECONDS)
                self._was_called.clear()
        self._step_began = self._clock()
        self.paused_seconds += self._step_began - began
        return self._is_preempted or cancelled()

    def _run_next(self, *, is_nested: bool = False) -> None:
        """The oldest call, unless a batch that paused has run it."""
        if not self._calls:
            return
        call = self._calls.popleft()
        if not call.is_started and not call.future.set_running_or_notify_cancel():
            return
        call.is_started = True
        outcome = call.work()
        if is_nested and outcome is BatchFailure.OUT_OF_MEMORY:
            self._is_preempted = True  # and once its memory is free, this one runs again
            self._calls.appendleft(call)
        else:
            call.future.set_result(outcome)


def _outcome(
    work: Callable[[], Sequence[Out] | PendingOutputs[Out]], num_jobs: int
) -> list[Out] | PendingOutputs[Out] | BatchFailure:
    # No exception leaves the thread: its traceback would keep the tensors of a batch that did not fit alive
    # while the halves run, and a stray StopIteration cannot pass through a future at all.
    try:
        outputs = work()
    except OutOfMemory:
        log.warning("batch_out_of_memory", num_jobs=num_jobs)
        return BatchFailure.OUT_OF_MEMORY
    except Cancelled:
        return BatchFailure.CANCELLED
    except Exception as error:
        if is_device_failure(error):
            log.critical("device_failed", num_jobs=num_jobs, exc_info=True)
            return BatchFailure.DIED
        log.exception("batch_failed", num_jobs=num_jobs)
        return BatchFailure.RAISED
    except BaseException:
        log.critical("model_thread_ended", num_jobs=num_jobs, exc_info=True)
        return BatchFailure.DIED
    if isinstance(outputs, PendingOutputs):
        return outputs
    if len(outputs) != num_jobs:
        log.error("wrong_number_of_outputs", num_jobs=num_jobs, num_outputs=len(outputs))
        return BatchFailure.RAISED
    return list(outputs)
