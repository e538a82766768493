"""Style images from outside the renderer's world, for which the judge has no words: colours are compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.intervals import Estimate, bootstrapped, share
from service.evaluation.stylisation import draw_all
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Styling, WeightedStyle
from service.training.outside import outside_picture
from service.training.scene import OBJECTS

_NUM_DIRECTIONS = 32


@dataclass(frozen=True, slots=True)
class Palettes:
    """How far, in levels of 0 to 255, an image's palette is from its style image's."""

    plain: Estimate
    styled: Estimate
    nearer: Estimate  # share of the images that the style brings nearer to its style image


def evaluate_palettes(generator: Generator, num_pictures: int, seed: int) -> Palettes:
    """From seeded outside pictures, each with an object as its prompt."""
    rng, size = np.random.default_rng([75, seed]), generator.default_size
    pictures = np.stack([outside_picture(rng) for _ in range(num_pictures)])
    plain = [
        ImageSpec(f"a {OBJECTS[index % len(OBJECTS)]}", seed + index, size) for index in range(num_pictures)
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
        bootstrapped(before, lambda each: float(each.mean())),
        bootstrapped(after, lambda each: float(each.mean())),
        share(after < before),
    )


def palette_distances(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[pictures]: sliced Wasserstein distance between the colours of two sets [pictures, h, w, 3], pairwise.

    It compares which colours there are and how much of each, and is blind to where they are.
    """
    directions = np.random.default_rng(0).standard_normal((3, _NUM_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)

    def slices(each: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.sort(each.reshape(len(each), -1, 3) @ directions, axis=1)

    distances: NDArray[np.float64] = np.abs(slices(pictures) - slices(others)).mean((1, 2))
    return distances
