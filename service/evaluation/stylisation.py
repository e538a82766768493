"""The paper's protocol on nano: is the prompt's object drawn, and in the reference's style?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.evaluation.intervals import Estimate, bootstrapped, estimated_mean, share
from service.evaluation.judge import Judge, Verdict, is_coloured, visible
from service.evaluation.references import report_references
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Method, Styling, WeightedStyle
from service.model.infinity.backbone import Infinity
from service.training.outside_pictures import outside_picture
from service.training.scene import OBJECTS, Scene

_PAIRS = 72  # apart from every stream of the training: those begin with the recipe's seed


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt that names an object only, and a reference picture that shows another object."""

    object: str
    reference: Scene
    picture: NDArray[np.uint8]  # [64, 64, 3], the reference rendered
    seed: int

    @property
    def prompt(self) -> str:
        return f"{'an' if self.object[0] in 'aeiou' else 'a'} {self.object}"


def things_of(generator: Generator) -> tuple[str, ...]:
    """What the model says that it draws: of all objects those that it draws well."""
    backbone = generator.backbone
    vocabulary = backbone.config.vocabulary if isinstance(backbone, Infinity) else None
    named = vocabulary.things if vocabulary else ()
    return tuple(name for name in OBJECTS if name in named) or OBJECTS


def style_pairs(seed: int, num: int, things: Sequence[str] = OBJECTS) -> list[Pair]:
    """The references in an order that the seed decides, each with one of `things` that it does not show."""
    rng, references = np.random.default_rng([_PAIRS, seed]), report_references()
    order = np.concatenate([rng.permutation(len(references)) for _ in range(-(-num // len(references)))])
    pairs = []
    for index in order[:num]:
        reference = references[index]
        others = [name for name in things if name != reference.scene.object]
        chosen = others[rng.integers(len(others))]
        pairs.append(Pair(chosen, reference.scene, reference.picture, int(rng.integers(2**32))))
    return pairs


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
    background: NDArray[np.bool_]  # as the reference's, as the next two
    medium: NDArray[np.bool_]
    colour: NDArray[np.bool_]
    coloured: NDArray[
        np.bool_
    ]  # the reference's object has a colour of the palette; others have none to carry
    vanished: NDArray[np.bool_]

    def estimates(self) -> dict[str, Estimate]:
        columns = np.stack([self.kept, self.background, self.medium], axis=1).astype(float)
        colour = self.colour[self.coloured]
        return {
            "kept": share(self.kept),
            "leaked": share(self.leaked),
            "background": share(self.background),
            "medium": share(self.medium),
            **({"colour": share(colour)} if len(colour) else {}),
            "style": estimated_mean(columns[:, 1:]),
            "harmonic": bootstrapped(columns, harmonic),
            "vanished": share(self.vanished),
        }


def harmonic(columns: NDArray[np.floating]) -> float:
    """Harmonic mean of object kept (column 0) and the mean of the style's attributes (the other columns)."""
    kept, style = float(columns[:, 0].mean()), float(columns[:, 1:].mean())
    return 2 * kept * style / (kept + style) if kept + style else 0.0


def draw(
    generator: Generator, pairs: Sequence[Pair], configurations: Iterable[Configuration]
) -> dict[Configuration, NDArray[np.uint8]]:
    """Pictures [pairs, 64, 64, 3] of every configuration. A pair's content path is shared where it can be."""
    chosen = list(configurations)
    pictures: dict[Configuration, NDArray[np.uint8]] = {}
    key_steps = [configuration.key_step or generator.key_step for configuration in chosen]
    for key_step in sorted(set(key_steps)):
        alike = [used for used, step in zip(chosen, key_steps, strict=True) if step == key_step]
        specs = [spec for pair in pairs for spec in _specs(generator, pair, alike, key_step)]
        drawn = draw_all(generator, specs)
        for index, configuration in enumerate(alike):
            pictures[configuration] = drawn[index :: len(alike)]
    return pictures


def draw_all(generator: Generator, specs: Sequence[ImageSpec]) -> NDArray[np.uint8]:
    """[specs, 64, 64, 3], drawn in batches as large as the memory allows."""
    size = generator.max_images(generator.default_size)
    return np.stack([drawing.image for batch in chunks(specs, size) for drawing in generator.generate(batch)])


def chunks(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def score(verdict: Verdict, pictures: NDArray[np.uint8], pairs: Sequence[Pair]) -> Score:
    references = [pair.reference for pair in pairs]
    return Score(
        kept=verdict.agrees("object", [replace(pair.reference, object=pair.object) for pair in pairs]),
        leaked=verdict.agrees("object", references),
        background=verdict.agrees("background", references),
        medium=verdict.agrees("medium", references),
        colour=verdict.agrees("colour", references),
        coloured=is_coloured(references),
        vanished=visible(pictures) < VANISHED_BELOW,
    )


def evaluate_styles(
    generator: Generator, judge: Judge, pairs: Sequence[Pair], configurations: Iterable[Configuration]
) -> dict[Configuration, Score]:
    drawn = draw(generator, pairs, configurations)
    return {used: score(judge.judge(pictures), pictures, pairs) for used, pictures in drawn.items()}


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


_NUM_DIRECTIONS = 32


@dataclass(frozen=True, slots=True)
class Palettes:
    """How far, in levels of 0 to 255, an image's palette is from its style image's."""

    plain: Estimate
    styled: Estimate
    nearer: Estimate  # share of the images that the style brings nearer to its style image


def evaluate_palettes(generator: Generator, num_pictures: int, seed: int) -> Palettes:
    """From seeded outside pictures, each with an object as its prompt."""
    rng, size, things = np.random.default_rng([75, seed]), generator.default_size, things_of(generator)
    pictures = np.stack([outside_picture(rng) for _ in range(num_pictures)])
    plain = [
        ImageSpec(f"a {things[index % len(things)]}", seed + index, size) for index in range(num_pictures)
    ]
    styled = [
        ImageSpec(
            spec.prompt,
            spec.seed,
            size,
            styling=Styling((WeightedStyle(generator.extract_style(picture, size)),)),
        )
        for spec, picture in zip(plain, pictures, strict=True)
    ]
    before, after = (palette_distances(draw_all(generator, specs), pictures) for specs in (plain, styled))
    return Palettes(
        estimated_mean(before),
        estimated_mean(after),
        share(after < before),
    )


def palette_distances(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[pictures]: sliced Wasserstein distance between the colours of two sets [pictures, h, w, 3], pairwise.

    It compares which colours there are and how much of each, and is blind to where they are.
    """
    directions = np.random.default_rng(0).standard_normal((3, _NUM_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)

    def slices(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.sort(pixels.reshape(len(pixels), -1, 3) @ directions, axis=1)

    distances: NDArray[np.float64] = np.abs(slices(pictures) - slices(others)).mean((1, 2))
    return distances
