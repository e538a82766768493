"""The paper's protocol on nano: is the prompt's object there, and is the reference's style?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.evaluation.intervals import Estimate, bootstrapped, share
from service.evaluation.judge import Judge, Verdict, visible
from service.evaluation.pairs import Pair
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Method, Styling, WeightedStyle

# Of 1,500 renders, thin outlines included, none stands out by less than 0.11.
VANISHED_BELOW = 0.08

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Configuration:
    """How a style enters; no method is the plain model, the baseline."""

    method: Method | None = None
    key_step: int | None = None
    alpha: float | None = None  # has no meaning where the method replaces

    def __str__(self) -> str:
        if self.method is None:
            return "base"
        name = self.method.value.upper()
        return name if self.alpha is None else f"{name}, alpha {self.alpha:g}"


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One configuration over all pairs: arrays [pairs]."""

    kept: NDArray[np.bool_]  # the prompt's object is seen
    leaked: NDArray[np.bool_]  # the reference's object is seen instead
    colour: NDArray[np.bool_]  # as the reference's, as the next two
    background: NDArray[np.bool_]
    medium: NDArray[np.bool_]
    vanished: NDArray[np.bool_]

    def estimates(self) -> dict[str, Estimate]:
        columns = np.stack([self.kept, self.colour, self.background, self.medium], axis=1).astype(float)
        return {
            "kept": share(self.kept),
            "leaked": share(self.leaked),
            "background": share(self.background),
            "medium": share(self.medium),
            "colour": share(self.colour),
            "style": bootstrapped(columns[:, 1:], lambda each: float(each.mean())),
            "harmonic": bootstrapped(columns, harmonic),
            "vanished": share(self.vanished),
        }


def harmonic(columns: NDArray[np.floating]) -> float:
    """Harmonic mean of object kept (column 0) and the mean of the style's attributes (the others)."""
    kept, style = float(columns[:, 0].mean()), float(columns[:, 1:].mean())
    return 2 * kept * style / (kept + style) if kept + style else 0.0


def draw(
    generator: Generator, pairs: Sequence[Pair], configurations: Iterable[Configuration]
) -> dict[Configuration, NDArray[np.uint8]]:
    """Pictures [pairs, 64, 64, 3] of every configuration. A pair's content path is shared where it can be."""
    chosen = list(configurations)
    pictures: dict[Configuration, NDArray[np.uint8]] = {}
    for key_step in sorted({each.key_step or generator.key_step for each in chosen}):
        alike = [each for each in chosen if (each.key_step or generator.key_step) == key_step]
        specs = [spec for pair in pairs for spec in _specs(generator, pair, alike, key_step)]
        drawn = draw_all(generator, specs)
        for index, configuration in enumerate(alike):
            pictures[configuration] = drawn[index :: len(alike)]
    return pictures


def draw_all(generator: Generator, specs: Sequence[ImageSpec]) -> NDArray[np.uint8]:
    """[specs, 64, 64, 3], drawn in batches as large as the memory allows."""
    size = generator.max_images(generator.default_size)
    return np.stack([each.image for batch in chunks(specs, size) for each in generator.generate(batch)])


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def score(verdict: Verdict, pictures: NDArray[np.uint8], pairs: Sequence[Pair]) -> Score:
    references = [pair.reference for pair in pairs]
    return Score(
        kept=verdict.agrees("object", [replace(pair.reference, object=pair.object) for pair in pairs]),
        leaked=verdict.agrees("object", references),
        colour=verdict.agrees("colour", references),
        background=verdict.agrees("background", references),
        medium=verdict.agrees("medium", references),
        vanished=visible(pictures) < VANISHED_BELOW,
    )


def evaluate_styles(
    generator: Generator, judge: Judge, pairs: Sequence[Pair], configurations: Iterable[Configuration]
) -> dict[Configuration, Score]:
    drawn = draw(generator, pairs, configurations)
    return {each: score(judge.judge(pictures), pictures, pairs) for each, pictures in drawn.items()}


def _specs(
    generator: Generator, pair: Pair, configurations: Sequence[Configuration], key_step: int
) -> list[ImageSpec]:
    size = generator.default_size
    plain = ImageSpec(pair.prompt, pair.seed, size)
    styles = (WeightedStyle(generator.extract_style(pair.picture, size, key_step)),)
    return [
        plain
        if configuration.method is None
        else replace(
            plain,
            styling=Styling(
                styles,
                alpha=configuration.alpha,
                method=configuration.method,
                key_step=configuration.key_step,
            ),
        )
        for configuration in configurations
    ]
