"""Partial images: what a batch shows of an image while it is being drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """The image so far: the accumulated feature after `step`, decoded at that scale's own resolution."""

    image: NDArray[np.uint8]  # [height, width, 3] RGB, smaller than the image that is being drawn
    step: int
    num_steps: int


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """Who wants to see an image grow. `show` is called on the model thread: it may neither wait nor raise."""

    steps: tuple[int, ...]
    show: Callable[[Partial], None]


def watched_steps(num_partials: int, *, key_step: int, num_steps: int) -> tuple[int, ...]:
    """After which steps to show so many partial images: spread from the key step to the last step but one.

    Before the key step there is no style to see, and after the last step there is the image itself. A
    schedule too short for that gives earlier steps as well, and at worst fewer.
    """
    first = max(1, min(key_step, num_steps - num_partials))
    candidates = range(first, num_steps)
    num_shown = min(num_partials, len(candidates))
    return tuple(candidates[(2 * i + 1) * len(candidates) // (2 * num_shown)] for i in range(num_shown))
