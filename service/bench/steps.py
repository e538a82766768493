"""The steps of a model that serves: how long each took, and the gap on the model thread before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.bench.subject import Subject
from service.model.engine.generator import Generator, PendingBatch, never
from service.model.engine.types import Drawing, ImageSpec


@dataclass(frozen=True, slots=True)
class BatchSteps:
    """One batch. `gap_seconds` lie between the end of a step and the beginning of the next.

    `blocked_share` is the part of its time in which the model thread neither ran nor waited for a core: it
    waited for a lock, such as Python's own, or for threads of its own. None where the system does not tell.
    """

    seeds: tuple[int, ...]
    transformer_seconds: float
    step_seconds: tuple[float, ...]
    gap_seconds: tuple[float, ...]
    blocked_share: float | None = None


class WatchedGenerator(Generator):
    """The real one, which remembers the times of its steps, and draws few sizes, the subject's own first."""

    def __init__(self, subject: Subject, num_sizes: int) -> None:
        super().__init__(subject.backbone)
        others = [size for size in self.sizes if size != subject.size]
        self.sizes = (subject.size, *others)[:num_sizes]
        self.default_size = subject.size
        self.batches: list[BatchSteps] = []

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        began, on_core = time.perf_counter(), _seconds_at_a_core()
        drawn = super().draw(specs, cancelled)
        blocked_share = None
        if on_core is not None:
            spent = time.perf_counter() - began
            blocked_share = 1 - ((_seconds_at_a_core() or 0.0) - on_core) / spent

        def drawings() -> list[Drawing]:
            every = drawn.drawings()
            self.batches.append(_steps(specs, every[0], blocked_share))
            return every

        return replace(drawn, drawings=drawings)


def _seconds_at_a_core() -> float | None:
    """How long this thread has run or waited for a core so far; None on systems other than Linux."""
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:
        return None
    return (int(ran) + int(waited)) / 1e9


def _steps(specs: Sequence[ImageSpec], drawing: Drawing, blocked_share: float | None) -> BatchSteps:
    timings = drawing.timings
    return BatchSteps(
        seeds=tuple(spec.seed for spec in specs),
        transformer_seconds=timings.transformer_seconds,
        step_seconds=timings.step_seconds,
        gap_seconds=timings.gap_seconds,
        blocked_share=blocked_share,
    )
