"""UploadLimiter: a bounded number of places for work that has no batcher, such as reading uploads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import QueueFull
from service.metrics import Metrics

# Said before anything was measured: a photograph takes about this long to decode.
FIRST_GUESS_SECONDS = 0.1
# How far one measured interval moves the estimate: about the last seven count.
NEWEST_WEIGHT = 0.25


class UploadLimiter:
    """`max_places` places; whoever finds none is told when to come back. For one event loop's thread.

    The rate is measured at the exit, as the time from one finished piece of work to the next while there is
    any: so it holds however many run at once and whatever they wait for.
    """

    def __init__(
        self, *, name: str, max_places: int, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.num_taken = 0
        self._max_places = max_places
        self._metrics = metrics
        self._clock = clock
        self._seconds_each: float | None = None
        self._since = 0.0  # when the last one ended, or the first one came to an empty place
        metrics.queue_depth.labels(queue=name).set_function(lambda: self.num_taken)
        metrics.queued_work_seconds.labels(queue=name).set_function(lambda: self.queued_seconds)

    @property
    def queued_seconds(self) -> float:
        """Estimate of the time until all that is inside has ended."""
        each = FIRST_GUESS_SECONDS if self._seconds_each is None else self._seconds_each
        return self.num_taken * each

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place while the context lasts. QueueFull when there is none."""
        if self.num_taken >= self._max_places:
            wait = max(1.0, self.queued_seconds)
            self._metrics.rejections.labels(queue=self.name, reason=QueueFull.code).inc()
            raise QueueFull(
                f"All {self._max_places} places for uploads are taken; "
                f"try again in {math.ceil(wait)} seconds.",
                retry_after_seconds=wait,
            )
        if self.num_taken == 0:
            self._since = self._clock()
        self.num_taken += 1
        try:
            yield
            self._measure()
        finally:
            self.num_taken -= 1

    def _measure(self) -> None:
        now = self._clock()
        seconds, self._since = now - self._since, now
        before = seconds if self._seconds_each is None else self._seconds_each
        self._seconds_each = before + NEWEST_WEIGHT * (seconds - before)
