"""Priority: two classes of jobs, and the order in which they run."""

from __future__ import annotations

from enum import StrEnum

# A job of low priority runs after every job that arrives within this time after it, and before all later
# ones: an endless stream of normal jobs delays it by this much and no more.
LOW_YIELDS_SECONDS = 10.0
# Share of a queue that jobs of low priority may fill.
LOW_SHARE = 0.5


class Priority(StrEnum):
    """There is none above normal: no client can overtake the others by requesting it."""

    NORMAL = "normal"
    LOW = "low"

    def rank(self, queued_at: float) -> float:
        """What the queue is sorted by, in seconds of the queue's clock: the lowest is next."""
        return queued_at + (LOW_YIELDS_SECONDS if self is Priority.LOW else 0.0)

    def max_jobs(self, max_queued: int) -> int:
        """How many jobs of this priority a queue of `max_queued` may hold: at least 1."""
        return max_queued if self is Priority.NORMAL else max(1, int(max_queued * LOW_SHARE))
