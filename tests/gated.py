"""The real Generator behind a gate that the test opens and closes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from service.model.generator import Drawing, Generator, ImageSpec, always

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

    def generate(self, specs: Sequence[ImageSpec], wanted: Callable[[], bool] = always) -> list[Drawing]:
        self.batches.append(list(specs))
        self._arrivals.release()
        assert self._gate.wait(PATIENCE_SECONDS), "nobody opened the gate"
        return super().generate(specs, wanted)
