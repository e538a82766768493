"""What a picture of the bundled model shows: four words out of closed lists."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

OBJECTS: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "house",
    "tree",
    "fish",
    "mug",
    "car",
    "flower",
    "cat",
)
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (218, 36, 40),
    "orange": (246, 130, 22),
    "yellow": (252, 216, 48),
    "green": (46, 148, 58),
    "teal": (34, 186, 186),
    "blue": (40, 82, 214),
    "purple": (126, 48, 168),
    "pink": (252, 152, 196),
    "white": (246, 246, 242),
    "black": (28, 28, 32),
}
COLOURS: tuple[str, ...] = tuple(PALETTE)
BACKGROUNDS: tuple[str, ...] = tuple(PALETTE)
MEDIA: tuple[str, ...] = (
    "flat",
    "outline",
    "stripes",
    "checker",
    "wood grain",
    "watercolour",
    "pixel",
    "neon",
)
# Below this distance two palette colours melt into one another once textured and 64 px wide.
# Eleven pairs fall below it: neighbours in hue (orange and yellow) or in lightness (red and purple).
MIN_CONTRAST = 0.27


@dataclass(frozen=True, slots=True)
class Scene:
    """One object in one colour on one background, drawn in one medium."""

    object: str
    colour: str
    background: str
    medium: str


def contrast(first: str, second: str) -> float:
    """Distance of two palette colours in Oklab: 0 for equal colours, 1 from black to white."""
    return float(np.linalg.norm(_named(first) - _named(second)))


@cache
def allowed_pairs(medium: str) -> tuple[tuple[str, str], ...]:
    """(colour, background) pairs that are distinguishable in `medium`."""
    # Neon draws with light on a dark ground, and black light is no light.
    return tuple(
        (colour, background)
        for colour in COLOURS
        for background in BACKGROUNDS
        if contrast(colour, background) >= MIN_CONTRAST and not (medium == "neon" and colour == "black")
    )


def random_scene(rng: np.random.Generator) -> Scene:
    """Object and medium uniform; colour and background uniform over the medium's allowed pairs."""
    medium = MEDIA[rng.integers(len(MEDIA))]
    pairs = allowed_pairs(medium)
    colour, background = pairs[rng.integers(len(pairs))]
    return Scene(OBJECTS[rng.integers(len(OBJECTS))], colour, background, medium)


def jittered(name: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """The palette colour with a mild change of hue and lightness: float32 RGB in 0..1."""
    red, green, blue = (channel / 255 for channel in PALETTE[name])
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    # Orange and yellow are 20 degrees apart, so 4 degrees either way keeps every name its own.
    hue = (hue + rng.uniform(-4, 4) / 360) % 1
    lightness = float(np.clip(lightness + rng.uniform(-0.035, 0.035), 0.05, 0.98))
    return np.array(colorsys.hls_to_rgb(hue, lightness, saturation), dtype=np.float32)


def _named(colour: str) -> NDArray[np.float64]:
    return oklab(np.array(PALETTE[colour]) / 255)


def oklab(srgb: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Colours [..., 3] of sRGB in 0..1 in Oklab (Ottosson, 2020), where distances are those that eyes see."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.asarray(np.cbrt(linear @ to_cones.T) @ to_lab.T)
