"""The real Generator, controlled by the test: behind a gate, step by step, or failing on one prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from service.model.engine.generator import Generator, PendingBatch, never
from service.model.engine.types import ImageSpec
from service.model.schedule import Size

PATIENCE_SECONDS = 60


class GatedGenerator(Generator):
    """A generator whose batches wait, on the model thread, while the gate is closed, as it is at first."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator.backbone)
        self.batches: list[list[ImageSpec]] = []
        self._gate = threading.Event()
        self._arrivals = threading.Semaphore(0)

    def open(self) -> None:
        self._gate.set()

    def close(self) -> None:
        """Later batches wait; arrivals before now are forgotten."""
        self._gate.clear()
        self._arrivals = threading.Semaphore(0)

    def wait_for_batch(self) -> None:
        """Return once another batch stands at the gate."""
        assert self._arrivals.acquire(timeout=PATIENCE_SECONDS), "no batch came"

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        self.batches.append(list(specs))
        self._arrivals.release()
        assert self._gate.wait(PATIENCE_SECONDS), "nobody opened the gate"
        return super().draw(specs, cancelled)


class SteppingGenerator(Generator):
    """The real one, which waits after each step until the test lets it continue."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator.backbone)
        self.num_steps_done = 0
        self.stepped, self._permits = threading.Semaphore(0), threading.Semaphore(0)

    def let_go(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self._permits.release()

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        def after_step() -> bool:
            self.num_steps_done += 1
            self.stepped.release()
            assert self._permits.acquire(timeout=PATIENCE_SECONDS), "the test did not continue"
            return cancelled()

        return super().draw(specs, after_step)


class FailingGenerator(Generator):
    """The real one, except that a batch with one prompt fails."""

    FAILS_ON = "a hat"
    ERROR: BaseException = RuntimeError("a secret reason")
    max_in_batch = 8

    def max_images(self, size: Size) -> int:
        return self.max_in_batch

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        if any(spec.prompt == self.FAILS_ON for spec in specs):
            raise self.ERROR
        return super().draw(specs, cancelled)


class PausingGenerator(Generator):
    """The real one, which the test can let pause after a step of the next batch."""

    def __init__(self, generator: Generator) -> None:
        super().__init__(generator.backbone)
        self.num_steps_done = 0
        self._pause_after = 0
        self._paused, self._resumed = threading.Event(), threading.Event()

    def pause_after(self, step: int) -> None:
        self._pause_after, self.num_steps_done = step, 0
        self._paused.clear()
        self._resumed.clear()

    def wait_until_paused(self) -> None:
        assert self._paused.wait(PATIENCE_SECONDS), "no batch came"

    def resume(self) -> None:
        self._pause_after = 0
        self._resumed.set()

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        def after_step() -> bool:
            self.num_steps_done += 1
            if self.num_steps_done == self._pause_after:
                self._paused.set()
                assert self._resumed.wait(PATIENCE_SECONDS), "the test did not resume"
            return cancelled()

        return super().draw(specs, after_step)
