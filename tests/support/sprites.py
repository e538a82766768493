"""Sprites for tests, in place of those that a training fetches: a polygon of its own for every thing."""

from __future__ import annotations

import colorsys
import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from service.training.scene import OBJECTS
from service.training.sprites import SPRITE_SIDE, Sprites

_SIDE = SPRITE_SIDE


@cache
def tiny_sprites() -> Sprites:
    """The circle is round and the square square; each other thing is a seeded polygon with an eye."""
    drawn = [_drawn(name, index) for index, name in enumerate(OBJECTS)]
    return Sprites.of(OBJECTS, *zip(*drawn, strict=True))


def _drawn(name: str, index: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    corners = _corners(name, np.random.default_rng(index))
    fill, eye = _colour(index, 0.5), _colour(index + 7, 0.8)
    flat = _canvas()
    ImageDraw.Draw(flat).polygon(corners, fill=fill)
    middle = (_SIDE * 0.45, _SIDE * 0.45, _SIDE * 0.55, _SIDE * 0.55)
    ImageDraw.Draw(flat).ellipse(middle, fill=eye)
    ink = _canvas()
    ImageDraw.Draw(ink).line([*corners, *corners[:2]], fill=(0, 0, 0, 255), width=9, joint="curve")
    clay = _canvas()
    ImageDraw.Draw(clay).polygon(corners, fill=_colour(index, 0.4))
    ImageDraw.Draw(clay).ellipse(middle, fill=_colour(index, 0.75))
    return flat, ink, clay


def _corners(name: str, rng: np.random.Generator) -> list[tuple[float, float]]:
    if name == "square":
        low, high = 0.06 * _SIDE, 0.94 * _SIDE
        return [(low, low), (high, low), (high, high), (low, high)]
    number = 40 if name == "circle" else int(rng.integers(4, 10))
    radii = np.full(number, 0.45) if name == "circle" else rng.uniform(0.25, 0.48, number)
    turns = [2 * math.pi * step / number for step in range(number)]
    return [
        (_SIDE * (0.5 + radius * math.cos(turn)), _SIDE * (0.5 + radius * math.sin(turn)))
        for radius, turn in zip(radii.tolist(), turns, strict=True)
    ]


def _colour(index: int, lightness: float) -> tuple[int, int, int, int]:
    red, green, blue = colorsys.hls_to_rgb(index * 0.381 % 1, lightness, 0.8)
    return round(255 * red), round(255 * green), round(255 * blue), 255


def _canvas() -> Image.Image:
    return Image.new("RGBA", (_SIDE, _SIDE))
