"""Where the time of a piece of work went: StageTimer, and RequestTrace, which is one of a whole request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter

STAGES_OF_MODEL = ("text", "tokenize", "transformer", "decode", "extract", "decompose")
"""Parts of a batch, as timed on the model's thread."""


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of a stage, in seconds of the timer's clock."""

    stage: str
    began: float
    ended: float


@dataclass(slots=True)
class StageTimer:
    """Spans of time by the name of their stage, in seconds of `clock`.

    Stages follow one another, so they add up to the time that the work took. Spans are kept, not sums, since
    work may be shared: a request that joins it halfway waited for the second half alone.
    """

    clock: Callable[[], float] = time.perf_counter
    spans: list[Span] = field(default_factory=list)

    @property
    def seconds(self) -> dict[str, float]:
        """The sum of each stage, in order of first appearance."""
        sums: dict[str, float] = {}
        for span in self.spans:
            sums[span.stage] = sums.get(span.stage, 0.0) + span.ended - span.began
        return sums

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time spent inside as this stage, also when it fails."""
        began = self.clock()
        try:
            yield
        finally:
            self.spans.append(Span(name, began, self.clock()))

    def waited(self, seconds: float, *, then: Mapping[str, float]) -> None:
        """Counts a wait that ends now: `then` are the model's seconds by stage, the rest is "queue"."""
        at = self.clock() - max(seconds, sum(then.values()))
        for name, its_seconds in {"queue": max(0.0, seconds - sum(then.values())), **then}.items():
            self.spans.append(Span(name, at, at + its_seconds))
            at += its_seconds

    def take(self, other: StageTimer, *, since: float) -> None:
        """Copies what `other`, of the same clock, has spent since that time."""
        self.spans += [
            Span(span.stage, max(span.began, since), span.ended)
            for span in other.spans
            if span.ended >= since
        ]


@dataclass(slots=True)
class RequestTrace(StageTimer):
    """The stages of one request, with its steps and the fields of its log line.

    The stages add up to the request's duration except for `http_seconds`. The steps are parts
    of the stage "transformer".
    """

    step_seconds: tuple[float, ...] = ()
    gap_seconds: tuple[float, ...] = ()  # between one step and the next
    outgoing_headers: Mapping[str, str] = field(default_factory=dict)  # name its trace, for calls to others
    is_stylised: bool = False  # it asks for an image in a style
    fields: dict[str, object] = field(default_factory=dict)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def elapsed_seconds(self) -> float:
        """Since the request arrived."""
        return self.clock() - self.began

    def http_seconds(self, until: float) -> dict[str, float]:
        """What no stage has of the time up to `until`: before the first ("receive": the headers, the body and
        its validation), between two ("handle") and after the last ("respond"). All of it is "receive" when
        there was no stage.
        """
        gaps, reached = {"receive": 0.0, "handle": 0.0, "respond": 0.0}, self.began
        spans = sorted(self.spans, key=attrgetter("began"))
        for position, span in enumerate(spans):
            gaps["handle" if position else "receive"] += max(0.0, span.began - reached)
            reached = max(reached, span.ended)
        gaps["respond" if spans else "receive"] += max(0.0, until - reached)
        return gaps
