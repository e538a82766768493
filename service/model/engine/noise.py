"""Noise: what sampling a batch needs, drawn while the steps run and not between them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor


class Noise:
    """The noise of every step, `draw(1)`, `draw(2)`, ..., drawn in this order on a thread of its own."""

    def __init__(self, draw: Callable[[int], Tensor], num_steps: int) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._steps: list[Future[Tensor]] = [pool.submit(draw, step) for step in range(1, num_steps + 1)]
        pool.shutdown(wait=False)

    def at(self, step: int) -> Tensor:
        """Of one step, once it is there."""
        return self._steps[step - 1].result()
