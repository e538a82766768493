"""ModelThread: the one thread on which the model runs, and what a call there can end in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Generic, TypeVar

from service.model.engine.generator import Cancelled, OutOfMemory

In = TypeVar("In")
Out = TypeVar("Out")
log = logging.getLogger(__name__)


class Failure(Enum):
    """Why a batch has no outputs; the value is the sentence for its clients."""

    RAISED = "The model failed on this job; the service's log says why. Trying again may help."
    OUT_OF_MEMORY = "This job alone does not fit into the model's memory; ask for a smaller size."
    ABANDONED = "The batch stopped because all its clients had gone."
    DIED = "The model stopped in the middle of this job; the service has to be restarted."


@dataclass(frozen=True, slots=True)
class PendingOutputs(Generic[Out]):
    """A batch that needs the model thread no more: its outputs are to be waited for, on any other."""

    outputs: Callable[[], Sequence[Out]]


class ModelThread(ThreadPoolExecutor):
    """The one model thread, and `turn`, the right to use it, which batchers get in the order they asked.

    A batcher forms its batch after it got the turn, so the batch holds all that queued up while the model was
    busy, also when it was busy with another batcher's work.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="model")
        self.turn = asyncio.Lock()
        self._work: list[Callable[[], float]] = []

    def expect(self, seconds: Callable[[], float]) -> None:
        """Have a batcher tell at any time for how many seconds its accepted jobs need the thread."""
        self._work.append(seconds)

    @property
    def accepted_seconds(self) -> float:
        """Estimate of when all that its batchers have accepted will have run."""
        return sum(seconds() for seconds in self._work)

    async def call(
        self,
        run: Callable[[Sequence[In], Callable[[], bool]], Sequence[Out] | PendingOutputs[Out]],
        inputs: Sequence[In],
        cancelled: Callable[[], bool],
    ) -> list[Out] | PendingOutputs[Out] | Failure:
        """The outputs of `run(inputs, cancelled)`, one for each input, or why there are none.

        The log has the trace. Raises only when the thread itself is gone (RuntimeError: it was shut down).
        """
        work = partial(run, inputs, cancelled)
        return await asyncio.get_running_loop().run_in_executor(self, _outcome, work, len(inputs))

    async def finish(self, unfinished: PendingOutputs[Out], num_jobs: int) -> list[Out] | Failure:
        """The outputs of a batch that was left unfinished, waited for beside the next one."""
        outcome = await asyncio.to_thread(_outcome, unfinished.outputs, num_jobs)
        assert not isinstance(outcome, PendingOutputs)
        return outcome


def _outcome(
    work: Callable[[], Sequence[Out] | PendingOutputs[Out]], num_jobs: int
) -> list[Out] | PendingOutputs[Out] | Failure:
    # No exception leaves the thread: its traceback would keep the tensors of a batch that did not fit alive
    # while the halves run, and a stray StopIteration cannot pass through a future at all.
    try:
        outputs = work()
    except OutOfMemory:
        log.warning("A batch of %d jobs ran out of memory.", num_jobs)
        return Failure.OUT_OF_MEMORY
    except Cancelled:
        return Failure.ABANDONED
    except Exception:
        log.exception("A batch of %d jobs failed.", num_jobs)
        return Failure.RAISED
    except BaseException:
        log.critical("The model thread was told to end in a batch of %d jobs.", num_jobs, exc_info=True)
        return Failure.DIED
    if isinstance(outputs, PendingOutputs):
        return outputs
    if len(outputs) != num_jobs:
        log.error("A batch of %d jobs gave %d outputs.", num_jobs, len(outputs))
        return Failure.RAISED
    return list(outputs)
