"""StageTimer: where the time of one piece of work went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    stage: str
    began: float
    ended: float


@dataclass(slots=True)
class StageTimer:
    """Spans of time by the name of their stage, in seconds of `clock`.

    Stages follow one another, so that they add up to the time the work took. Spans and not sums, because work
    may be shared: who came in the middle of it waited for the rest alone.
    """

    clock: Callable[[], float] = time.perf_counter
    spans: list[Span] = field(default_factory=list)

    @property
    def seconds(self) -> dict[str, float]:
        """The sum of each stage, in the order in which they came."""
        sums: dict[str, float] = {}
        for span in self.spans:
            sums[span.stage] = sums.get(span.stage, 0.0) + span.ended - span.began
        return sums

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside is of this stage."""
        began = self.clock()
        try:
            yield
        finally:
            self.spans.append(Span(name, began, self.clock()))

    def waited(self, seconds: float, *, then: Mapping[str, float]) -> None:
        """So long was waited until now for a model whose work took `then`, by stage; the rest is "queue"."""
        at = self.clock() - max(seconds, sum(then.values()))
        for name, its_seconds in {"queue": max(0.0, seconds - sum(then.values())), **then}.items():
            self.spans.append(Span(name, at, at + its_seconds))
            at += its_seconds

    def take(self, other: StageTimer, *, since: float) -> None:
        """Take over what `other`, of the same clock, has spent since that time."""
        self.spans += [
            Span(span.stage, max(span.began, since), span.ended)
            for span in other.spans
            if span.ended >= since
        ]
