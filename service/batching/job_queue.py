"""Job, and which of those that wait are next: fair turns between API keys, and jobs that can run together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Generic, TypeVar

from service.batching.priority import Priority

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose jobs take turns with those of others, such as an API key. While all have jobs waiting, as many
    run of one as its weight says for one of an owner with weight 1.
    """

    name: str = ""
    weight: int = 1


NO_OWNER = Owner()


@dataclass(slots=True, eq=False)
class Job(Generic[In, Out]):
    """One accepted unit of work. Times are in seconds of the batcher's clock.

    `future` gets the output or a ServiceError; cancelling it says that the client disconnected. Of the jobs
    of one owner the one with the lowest `rank` is next. `started_at` and `num_jobs_in_batch` are set when its
    batch reaches the model.
    """

    input: In
    group: Hashable
    deadline: float | None
    queued_at: float
    future: asyncio.Future[Out]
    priority: Priority = Priority.NORMAL
    rank: float = 0.0
    owner: Owner = NO_OWNER
    started_at: float | None = None
    num_jobs_in_batch: int = 0
    deadline_timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class FairTurns:
    """Start-time fair queueing (Goyal, Vin and Cheng, 1996), counted in jobs.

    A job's turn is the number of jobs, divided by its owner's weight, that its owner has run before it. An
    owner that comes back after a pause starts at the turn that the others have reached: it can neither save
    turns up nor owe any.
    """

    def __init__(self) -> None:
        self._reached = 0.0
        self._next: dict[str, float] = {}  # of owners that are ahead of what was reached

    def order(self, queue: Sequence[Job[In, Out]], now: float) -> list[Job[In, Out]]:
        """The queue, which is sorted by rank, in the order in which its jobs should run. A job of low
        priority waits for all others until it has yielded long enough, then takes its turn.
        """
        ordered = [(job.rank > now, turn, job) for job, turn in self._turns(queue, dict(self._next))]
        return [job for _, _, job in sorted(ordered, key=itemgetter(0, 1))]

    def start(self, batch: Sequence[Job[Any, Any]]) -> None:
        """These jobs, the first in the order and others that run with it, have had their turns."""
        turns = [turn for _, turn in self._turns(batch, self._next)]
        self._reached = max(self._reached, turns[0]) if turns else self._reached
        self._next = {name: turn for name, turn in self._next.items() if turn > self._reached}

    def _turns(
        self, jobs: Iterable[Job[In, Out]], next_turns: dict[str, float]
    ) -> Iterable[tuple[Job[In, Out], float]]:
        """Each job with its turn; `next_turns` is moved forward."""
        for job in jobs:
            turn = max(self._reached, next_turns.get(job.owner.name, 0.0))
            next_turns[job.owner.name] = turn + 1 / job.owner.weight
            yield job, turn


def form_batch(queue: Sequence[Job[In, Out]], max_jobs: Callable[[Hashable], int]) -> list[Job[In, Out]]:
    """The first job of the queue, which is in the order of turns, and the next ones of its group, whoever
    owns them, as many as the bound of the group allows. The first is always among them, so that no group, no
    owner and no priority starves.
    """
    if not queue:
        return []
    group = queue[0].group
    return [job for job in queue if job.group == group][: max(1, max_jobs(group))]


def free_places(waiting: Sequence[Job[Any, Any]], max_queued: int, owner: Owner) -> int:
    """How many more jobs of this owner may wait. When others have filled the queue, an owner still has its
    share of it, by weight among those that wait; so all owners together may exceed the bound.
    """
    weights = {job.owner.name: job.owner.weight for job in waiting} | {owner.name: owner.weight}
    share = int(max_queued * owner.weight / sum(weights.values()))
    num_own = sum(job.owner.name == owner.name for job in waiting)
    return max(0, max_queued - len(waiting), share - num_own)
