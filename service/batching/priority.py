"""Priority: two classes of jobs, and the order in which they run."""

from __future__ import annotations

from enum import StrEnum


class Priority(StrEnum):
    """There is none above normal: no client can overtake the others by requesting it."""

    NORMAL = "normal"
    LOW = "low"


# A job runs after every job that arrives within this time after it, and before all later ones: an endless
# stream of normal jobs delays one of low priority by this much and no more.
YIELDS_SECONDS = {Priority.NORMAL: 0.0, Priority.LOW: 10.0}
# Share of a queue that jobs of a priority may fill.
SHARES = {Priority.NORMAL: 1.0, Priority.LOW: 0.5}
