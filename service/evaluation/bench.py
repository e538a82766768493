"""How long images take on this machine, and on what it was measured."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from service import __version__
from service.evaluation.hardware import describe
from service.model.generator import Generator, ImageSpec, Styling, WeightedStyle

_WARM_UP = 2
_PROMPT = "a red star on a blue background"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Wall-clock seconds of each counted repetition of one kind of work, and how many images one makes."""

    name: str
    seconds: tuple[float, ...]
    num_images: int = 1

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, share))


def measure(generator: Generator, *, repeats: int, seed: int) -> Iterator[Measurement]:
    """Plain and stylised images, alone and four at once, and a style's extraction; the first call is cold."""
    size = generator.default_size
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)
    began = time.perf_counter()
    generator.generate([ImageSpec(_PROMPT, seed, size)])
    yield Measurement("first plain image", (time.perf_counter() - began,))
    style = Styling((WeightedStyle(generator.extract_style(picture, size)),))
    plain = [ImageSpec(_PROMPT, seed + index, size) for index in range(4)]
    styled = [ImageSpec(_PROMPT, seed + index, size, styling=style) for index in range(4)]
    works: list[tuple[str, int, Callable[[], object]]] = [
        ("style extraction", 1, lambda: generator.extract_style(picture, size)),
        ("plain image", 1, lambda: generator.generate(plain[:1])),
        ("stylised image", 1, lambda: generator.generate(styled[:1])),
        ("4 plain images, one batch", 4, lambda: generator.generate(plain)),
        ("4 stylised images, one batch", 4, lambda: generator.generate(styled)),
    ]
    for name, num_images, work in works:
        yield Measurement(name, _timed(work, repeats), num_images)


def report(generator: Generator, measurements: list[Measurement], *, repeats: int, seed: int) -> str:
    """The table with what it was measured on. Ratios are to the plain image's median."""
    plain = next(each for each in measurements if each.name == "plain image").percentile(50)
    lines = [
        f"atelier {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        describe(generator.backbone.device),
        f"model {generator.name}, size {generator.default_size}, seed {seed}, "
        f"{repeats} repetitions after {_WARM_UP} that do not count",
        "",
        f"{'work':30} {'p50 ms':>9} {'p95 ms':>9} {'images/s':>9} {'per image':>10}",
    ]
    for each in measurements:
        median = each.percentile(50)
        lines.append(
            f"{each.name:30} {1000 * median:9.1f} {1000 * each.percentile(95):9.1f} "
            f"{each.num_images / median:9.2f} {median / each.num_images / plain:9.2f}x"
        )
    return "\n".join(lines)


def _timed(work: Callable[[], object], repeats: int) -> tuple[float, ...]:
    for _ in range(_WARM_UP):
        work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()  # ends with the images on the host, so nothing is still running
        seconds.append(time.perf_counter() - began)
    return tuple(seconds)
