"""The twelve objects as masks: what is body, what is shade, what is light, and what an outline inks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
Coverage = NDArray[np.float32]  # [side, side], 0 outside, 1 inside
OVERSAMPLING = 3
# Stroke widths as a fraction of the picture; 0.055 is 3.5 px at 64 px.
OUTLINE_WIDTH = 0.055
INK_WIDTH = 0.045


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the unit box [-1, 1] x [-1, 1] (y down) lands, in fractions of the picture."""

    x: float
    y: float
    radius: float
    turn_radians: float


@dataclass(frozen=True, slots=True)
class Silhouette:
    """Coverages of one object; `figure` is the union of body, shade and light."""

    body: Coverage
    shade: Coverage
    light: Coverage
    figure: Coverage
    strokes: Coverage  # the contour of the figure and the inked details


class Sheet:
    """Masks under the pencil: shapes arrive in the unit box and land as placed."""

    def __init__(self, side: int, placement: Placement) -> None:
        self._side = side * OVERSAMPLING
        self._placement = placement
        self._masks = {name: Image.new("L", (self._side, self._side)) for name in _LAYERS}
        self._pencils = {name: ImageDraw.Draw(mask) for name, mask in self._masks.items()}

    def body(self, points: Sequence[Point]) -> None:
        self._fill("body", points)

    def shade(self, points: Sequence[Point]) -> None:
        self._fill("shade", points)

    def light(self, points: Sequence[Point]) -> None:
        self._fill("light", points)

    def hole(self, points: Sequence[Point]) -> None:
        """Takes the shape out of the body drawn so far."""
        self._pencils["body"].polygon(self._placed(points), fill=0)

    def ink(self, points: Sequence[Point], *, closed: bool = False) -> None:
        """A line that only strokes show (outline, neon)."""
        line = self._placed([*points, points[0], points[1]] if closed else points)
        self._pencils["ink"].line(line, fill=255, width=round(INK_WIDTH * self._side), joint="curve")

    def dot(self, points: Sequence[Point]) -> None:
        """A filled spot that only strokes show."""
        self._fill("ink", points)

    def silhouette(self) -> Silhouette:
        body, shade, light, ink = (np.asarray(self._masks[name]) for name in _LAYERS)
        figure = np.maximum(np.maximum(body, shade), light)
        strokes = np.maximum(self._contour(figure), ink)
        reduced = (_reduced(mask) for mask in (body, shade, light, figure, strokes))
        return Silhouette(*reduced)

    def _contour(self, figure: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # A blurred step edge is a normal distribution function, so two thresholds one half-width either
        # side of it cut out a band of even width; unlike an eroded mask, thin parts stay as solid lines.
        half_width = OUTLINE_WIDTH * self._side / 2
        blurred = np.asarray(Image.fromarray(figure).filter(ImageFilter.GaussianBlur(half_width / 1.2)))
        return (((blurred > 0.115 * 255) & (blurred < 0.885 * 255)) * 255).astype(np.uint8)

    def _fill(self, layer: str, points: Sequence[Point]) -> None:
        self._pencils[layer].polygon(self._placed(points), fill=255)

    def _placed(self, points: Sequence[Point]) -> list[Point]:
        at = self._placement
        cos, sin = math.cos(at.turn_radians) * at.radius, math.sin(at.turn_radians) * at.radius
        side = self._side
        return [((at.x + x * cos - y * sin) * side, (at.y + x * sin + y * cos) * side) for x, y in points]


_LAYERS = ("body", "shade", "light", "ink")


def draw_silhouette(name: str, side: int, placement: Placement) -> Silhouette:
    """The object `name` (one of scene.OBJECTS) at `placement` in a picture of `side` x `side`."""
    sheet = Sheet(side, placement)
    _OBJECTS[name](sheet)
    return sheet.silhouette()


def _reduced(mask: NDArray[np.uint8]) -> Coverage:
    coverage = np.asarray(Image.fromarray(mask).reduce(OVERSAMPLING), dtype=np.float32)
    return coverage / np.float32(255)


def _oval(x: float, y: float, across: float, down: float | None = None) -> list[Point]:
    down = across if down is None else down
    turns = (2 * math.pi * i / 40 for i in range(40))
    return [(x + across * math.cos(turn), y + down * math.sin(turn)) for turn in turns]


def _box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _mirrored(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


def _circle(sheet: Sheet) -> None:
    sheet.body(_oval(0, 0, 0.95))


def _square(sheet: Sheet) -> None:
    sheet.body(_box(-0.86, -0.86, 0.86, 0.86))


def _triangle(sheet: Sheet) -> None:
    sheet.body([(0, -0.95), (1.02, 0.82), (-1.02, 0.82)])


def _star(sheet: Sheet) -> None:
    radii = (1.06, 0.45)
    turns = [(i, math.pi * (i / 5 - 0.5)) for i in range(10)]
    sheet.body([(radii[i % 2] * math.cos(turn), 0.06 + radii[i % 2] * math.sin(turn)) for i, turn in turns])


def _heart(sheet: Sheet) -> None:
    turns = [2 * math.pi * i / 60 for i in range(60)]
    # The classic heart curve: 16 sin^3 t across, 17 down to 12 up.
    heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    sheet.body([(math.sin(t) ** 3, -0.08 - up / 15.5) for t, up in zip(turns, heights, strict=True)])


def _house(sheet: Sheet) -> None:
    sheet.body(_box(-0.74, -0.1, 0.74, 0.95))
    sheet.shade([(-1.05, -0.02), (0, -1.0), (1.05, -0.02)])
    sheet.shade(_box(-0.2, 0.36, 0.2, 0.95))
    sheet.ink([(-0.9, 0), (0.9, 0)])
    sheet.ink([(-0.22, 0.95), (-0.22, 0.4), (0.22, 0.4), (0.22, 0.95)])


def _tree(sheet: Sheet) -> None:
    sheet.shade(_box(-0.2, 0.5, 0.2, 1.02))
    sheet.body([(0, -0.5), (0.95, 0.6), (-0.95, 0.6)])
    sheet.body([(0, -1.05), (0.68, -0.08), (-0.68, -0.08)])


def _fish(sheet: Sheet) -> None:
    sheet.body(_oval(-0.3, 0, 0.74, 0.6))
    sheet.body([(0.15, 0), (1.04, -0.66), (0.86, 0), (1.04, 0.66)])
    sheet.light(_oval(-0.62, -0.14, 0.16))
    sheet.dot(_oval(-0.6, -0.12, 0.13))


def _mug(sheet: Sheet) -> None:
    sheet.body(_oval(0.45, 0.12, 0.52, 0.5))
    sheet.hole(_oval(0.45, 0.12, 0.27, 0.25))
    sheet.body(_box(-0.96, -0.68, 0.42, 0.72))
    sheet.body(_oval(-0.27, 0.72, 0.69, 0.2))
    sheet.body(_oval(-0.27, -0.68, 0.69, 0.22))
    sheet.shade(_oval(-0.27, -0.66, 0.54, 0.14))
    sheet.ink(_oval(-0.27, -0.68, 0.69, 0.22)[:21])


def _car(sheet: Sheet) -> None:
    sheet.body([(-0.72, 0), (-0.44, -0.66), (0.36, -0.66), (0.7, 0)])
    sheet.body([(-1.06, 0.02), (-0.98, -0.1), (0.9, -0.1), (1.06, 0.08), (1.06, 0.46), (-1.06, 0.46)])
    sheet.light([(-0.5, -0.1), (-0.33, -0.5), (-0.08, -0.5), (-0.08, -0.1)])
    sheet.light([(0.08, -0.1), (0.08, -0.5), (0.28, -0.5), (0.48, -0.1)])
    for x in (-0.56, 0.56):
        sheet.shade(_oval(x, 0.46, 0.3))
        sheet.ink(_oval(x, 0.46, 0.3), closed=True)
    sheet.ink([(-0.7, -0.08), (0.7, -0.08)])


def _flower(sheet: Sheet) -> None:
    for i in range(5):
        turn = 2 * math.pi * i / 5 - math.pi / 2
        sheet.body(_oval(0.64 * math.cos(turn), 0.04 + 0.64 * math.sin(turn), 0.365))
    sheet.shade(_oval(0, 0.04, 0.3))
    sheet.ink(_oval(0, 0.04, 0.27), closed=True)


def _cat(sheet: Sheet) -> None:
    ear = [(-0.94, -1.0), (-0.16, -0.56), (-0.92, 0.14)]
    inner_ear = [(-0.8, -0.72), (-0.4, -0.5), (-0.76, -0.18)]
    eye = _oval(-0.38, 0.06, 0.15, 0.19)
    whiskers: list[list[Point]] = [[(-1.15, 0.3), (-0.6, 0.4)], [(-1.1, 0.66), (-0.6, 0.54)]]
    sheet.body(_oval(0, 0.16, 0.94, 0.78))
    for side in (list[Point], _mirrored):
        sheet.body(side(ear))
        sheet.shade(side(inner_ear))
        sheet.light(side(eye))
        sheet.dot(side(eye))
        for whisker in whiskers:
            sheet.ink(side(whisker))
    nose: list[Point] = [(-0.16, 0.38), (0.16, 0.38), (0, 0.58)]
    sheet.shade(nose)
    sheet.dot(nose)


_OBJECTS: dict[str, Callable[[Sheet], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "house": _house,
    "tree": _tree,
    "fish": _fish,
    "mug": _mug,
    "car": _car,
    "flower": _flower,
    "cat": _cat,
}
