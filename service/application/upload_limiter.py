"""UploadLimiter: bounds how many uploads are read at once and how many wait for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import QueueFull
from service.metrics import Metrics

# The estimate before anything was measured: a photograph takes about this long to decode.
FIRST_GUESS_SECONDS = 0.1
# How far one measured interval moves the estimate: about the last seven count.
NEWEST_WEIGHT = 0.25


class UploadLimiter:
    """`max_slots` slots, for one event loop's thread.

    The rate is measured as the time from the end of one upload to the end of the next, so that it holds
    however many run at once and whatever they wait for.
    """

    def __init__(
        self, *, max_slots: int, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.num_taken = 0
        self._max_slots = max_slots
        self._metrics = metrics
        self._clock = clock
        self._seconds_per_upload: float | None = None
        self._since = 0.0  # when the last one ended, or the first one took a slot after none was taken
        metrics.queue_depth.labels(queue="upload").set_function(lambda: self.num_taken)
        metrics.queued_work_seconds.labels(queue="upload").set_function(lambda: self.queued_seconds)

    @property
    def queued_seconds(self) -> float:
        """Estimate of the time until every slot that is taken is free again."""
        known = self._seconds_per_upload
        return self.num_taken * (FIRST_GUESS_SECONDS if known is None else known)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Holds a slot while the context lasts. QueueFull when there is none."""
        if self.num_taken >= self._max_slots:
            wait = max(1.0, self.queued_seconds)
            self._metrics.rejections.labels(queue="upload", reason=QueueFull.code).inc()
            raise QueueFull(
                f"All {self._max_slots} upload slots are taken; try again in {math.ceil(wait)} seconds.",
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
        before = seconds if self._seconds_per_upload is None else self._seconds_per_upload
        self._seconds_per_upload = before + NEWEST_WEIGHT * (seconds - before)
