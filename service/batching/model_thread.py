"""ModelThread: the one thread on which the model runs, and how a call there can end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Generic, TypeVar

import structlog

from service.model.engine.generator import Cancelled, OutOfMemory, is_device_failure

In = TypeVar("In")
Out = TypeVar("Out")
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


class ModelThread(ThreadPoolExecutor):
    """The one model thread, and `turn`, the right to use it, which batchers get in turn.

    A batcher forms its batch once it has the turn, so that the batch holds all that queued up while the model
    was busy, with another batcher's work too.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="model")
        self.turn = asyncio.Lock()
        self._accepted: list[Callable[[], float]] = []

    def add_work(self, seconds: Callable[[], float]) -> None:
        """Register a batcher by the estimate of the seconds that its accepted jobs need the thread."""
        self._accepted.append(seconds)

    @property
    def accepted_seconds(self) -> float:
        """Estimate of when all that its batchers have accepted will have run."""
        return sum(seconds() for seconds in self._accepted)

    async def call(
        self,
        run: Callable[[Sequence[In], Callable[[], bool]], Sequence[Out] | PendingOutputs[Out]],
        inputs: Sequence[In],
        cancelled: Callable[[], bool],
    ) -> list[Out] | PendingOutputs[Out] | BatchFailure:
        """The outputs of `run(inputs, cancelled)`, one for each input, or why there are none.

        The log has the trace. Raises only when the thread itself was shut down (RuntimeError).
        """
        work = partial(run, inputs, cancelled)
        return await asyncio.get_running_loop().run_in_executor(self, _outcome, work, len(inputs))

    async def finish(self, pending: PendingOutputs[Out], num_jobs: int) -> list[Out] | BatchFailure:
        """The outputs of a pending batch, waited for on a thread beside the model's."""
        outcome = await asyncio.to_thread(_outcome, pending.outputs, num_jobs)
        assert not isinstance(outcome, PendingOutputs)
        return outcome


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
