"""BatchDurations: how long batches take, from those that ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable

# The estimate for the first clients of a full queue, before any batch was measured.
FIRST_GUESS_SECONDS = 1.0
# How far one measured batch moves the estimate: about the last seven batches of its kind count.
NEWEST_WEIGHT = 0.25


class BatchDurations:
    """Estimates from the batches of a group, by their number of jobs: eight together take far less time than
    eight alone. A number that was not measured counts as the nearest one that was, in proportion; a group
    without a measurement, as the slowest of any.
    """

    def __init__(self) -> None:
        self._seconds: dict[Hashable, dict[int, float]] = {}

    def measure(self, group: Hashable, num_jobs: int, seconds: float) -> None:
        """A batch of so many jobs took this long."""
        of_group = self._seconds.setdefault(group, {})
        before = of_group.get(num_jobs, seconds)
        of_group[num_jobs] = before + NEWEST_WEIGHT * (seconds - before)

    def of_batch(self, group: Hashable, num_jobs: int) -> float:
        """Estimate of the seconds that one batch takes."""
        of_group = self._seconds.get(group)
        if of_group:
            nearest = min(of_group, key=lambda measured: abs(measured - num_jobs))
            return of_group[nearest] * num_jobs / nearest
        measured = [seconds / size for sizes in self._seconds.values() for size, seconds in sizes.items()]
        return max(measured, default=FIRST_GUESS_SECONDS) * num_jobs

    def of_queue(self, groups: Iterable[Hashable], max_jobs: Callable[[Hashable], int]) -> float:
        """Estimate of the seconds that waiting jobs of these groups take, in batches of `max_jobs`."""
        total = 0.0
        for group, num_jobs in Counter(groups).items():
            size = max(1, max_jobs(group))
            num_full, rest = divmod(num_jobs, size)
            total += num_full * self.of_batch(group, size) + (self.of_batch(group, rest) if rest else 0.0)
        return total
