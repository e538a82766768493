"""What a picture of the bundled model shows: thing, colour, background and medium, out of closed lists."""

from __future__ import annotations

import colorsys
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.model.nano.words import THINGS

OBJECTS: tuple[str, ...] = tuple(thing.name for thing in THINGS)
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
    "ink",
    "clay",
    "neon",
    "pixel",
    "watercolour",
    "stripes",
    "wood grain",
)
# Below this distance two palette colours melt into one another once textured and 64 px wide.
# Eleven pairs fall below it: neighbours in hue (orange and yellow) or in lightness (red and purple).
MIN_CONTRAST = 0.27
RECOLOURED = 0.3  # share of scenes in which the thing has another colour than its own


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a thing is: its longer side and its centre's shift in fractions of the picture, and its turn."""

    size: float
    x: float
    y: float
    turn_degrees: float
    mirrored: bool


# So few that a small model learns each thing in each of them within the hour, so far apart that seeds differ.
PLACEMENTS: dict[str, Pose] = {
    "centre": Pose(0.90, 0.0, 0.0, 0, mirrored=False),
    "left": Pose(0.78, -0.08, 0.05, 6, mirrored=True),
    "right": Pose(0.78, 0.08, -0.05, -6, mirrored=False),
}
POSES: tuple[str, ...] = tuple(PLACEMENTS)


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing on one background, drawn in one medium; with no `colour`, in its own colours."""

    object: str
    colour: str
    background: str
    medium: str
    pose: str = ""  # "": any


def contrast(first: str, second: str) -> float:
    """Distance of two palette colours in Oklab: 0 for equal colours, 1 from black to white."""
    return float(np.linalg.norm(_named(first) - _named(second)))


@cache
def allowed_pairs(medium: str) -> tuple[tuple[str, str], ...]:
    """(colour, background) pairs of palette colours that are distinguishable in `medium`."""
    # Neon draws with light on a dark ground, and black light is no light.
    return tuple(
        (colour, background)
        for colour in COLOURS
        for background in BACKGROUNDS
        if contrast(colour, background) >= MIN_CONTRAST and not (medium == "neon" and colour == "black")
    )


def held_out(object: str, medium: str) -> bool:
    """Whether no training picture shows this thing in this medium: so it is for a tenth of the pairs."""
    return zlib.crc32(f"{object}|{medium}".encode()) % 10 == 0


@cache
def _pairs(only: bool | None) -> tuple[tuple[str, str], ...]:
    """(thing, medium) pairs: all (None), held out (True) or trained on (False)."""
    pairs = ((name, medium) for name in OBJECTS for medium in MEDIA)
    return tuple(pair for pair in pairs if only is None or held_out(*pair) is only)


def random_scene(rng: np.random.Generator, *, held_out: bool | None = False) -> Scene:
    """Thing and medium uniform over the pairs trained on (False), held out (True) or all (None); any pose.

    Seven things in ten have their own colours, on any background; the others a palette colour, uniform over
    the medium's allowed pairs.
    """
    pairs = _pairs(held_out)
    name, medium = pairs[rng.integers(len(pairs))]
    if rng.random() >= RECOLOURED:
        return Scene(name, "", BACKGROUNDS[rng.integers(len(BACKGROUNDS))], medium)
    colours = allowed_pairs(medium)
    colour, background = colours[rng.integers(len(colours))]
    return Scene(name, colour, background, medium)


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
