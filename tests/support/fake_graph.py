"""A graph without a GPU: it runs its work again, into the results of the first time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from service.model.device.step_graphs import Tensors


class FakeGraph:
    """What a CUDA graph would read and write, at the same addresses."""

    def __init__(self, inside: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        """The work is captured and replayed inside a context."""
        self._inside = inside
        self.num_replays = 0

    def capture(self, work: Callable[[], Tensors]) -> Tensors:
        self._work = work
        with self._inside():
            self._results = work()
        return self._results

    def replay(self) -> None:
        self.num_replays += 1
        with self._inside():
            torch._foreach_copy_(list(self._results), list(self._work()))
