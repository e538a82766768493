"""Where a batch's time goes on a device that works behind the program's back: by waiting after each step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from service.model.generator import Generator, ImageSpec, Timings


def stepwise(generator: Generator, specs: Sequence[ImageSpec]) -> Timings:
    """The timings of a batch that waits for its device after each step.

    A GPU is otherwise still busy with a step whose launches have been timed. The waiting makes the whole a
    little slower, so only the parts are of use. The first step has with it what is prepared for all.
    """
    ends = [time.perf_counter()]

    def wait() -> bool:
        if generator.backbone.device.type == "cuda":
            torch.cuda.synchronize(generator.backbone.device)
        ends.append(time.perf_counter())
        return True

    timings = generator.generate(specs, wait)[0].timings
    ended, text = time.perf_counter(), timings.text_seconds
    steps = [later - earlier for earlier, later in pairwise(ends)]
    steps[0] -= text
    return replace(
        timings,
        transformer_seconds=ends[-1] - ends[0] - text,
        decode_seconds=ended - ends[-1],
        step_seconds=tuple(steps),
    )
