"""Draws a Scene: the pictures that the bundled model is trained and judged on. numpy and pillow only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from service.training.scene import (
    Scene,
    jittered,
)
from service.training.silhouettes import Coverage, Placement, Silhouette, draw_silhouette

Colour = NDArray[np.float32]  # [3], RGB in 0..1
Canvas = NDArray[np.float32]  # [side, side, 3], RGB in 0..1
BLACK = np.array([0.04, 0.04, 0.06], dtype=np.float32)
WHITE = np.array([0.98, 0.98, 0.97], dtype=np.float32)
BROWN = np.array([0.35, 0.2, 0.08], dtype=np.float32)
# Patterns repeat as often as the model's finest grid has tokens across, so that every token of a pattern
# carries the same code: a pattern that beats against the grid comes out of 64 pixels as grey.
REPEATS = 8
PIXELS_ACROSS = 2 * REPEATS


@dataclass(frozen=True, slots=True)
class Sketch:
    """All that a medium draws from."""

    shape: Silhouette
    colour: Colour
    background: Colour
    side: int
    rng: np.random.Generator


def render(scene: Scene, rng: np.random.Generator, side: int = 64) -> NDArray[np.uint8]:
    """RGB picture [side, side, 3] of `scene`; the same scene and generator state give the same bytes.

    KeyError when a word of the scene is not in its list.
    """
    placement = Placement(
        x=0.5 + rng.uniform(-0.035, 0.035),
        y=0.5 + rng.uniform(-0.035, 0.035),
        radius=rng.uniform(0.34, 0.405),
        turn_radians=math.radians(rng.uniform(-6, 6)),
    )
    sketch = Sketch(
        shape=draw_silhouette(scene.object, side, placement),
        colour=jittered(scene.colour, rng),
        background=jittered(scene.background, rng),
        side=side,
        rng=rng,
    )
    canvas = _MEDIA[scene.medium](sketch)
    return np.asarray(np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8))


def _flat(sketch: Sketch) -> Canvas:
    return _composed(sketch)


def _outline(sketch: Sketch) -> Canvas:
    paper = np.broadcast_to(sketch.background, (sketch.side, sketch.side, 3))
    return _over(paper, sketch.colour, sketch.shape.strokes)


def _stripes(sketch: Sketch) -> Canvas:
    x, y = _grid(sketch.side)
    phase = REPEATS * (x + y) + sketch.rng.uniform(-0.05, 0.05)
    wave = np.sin(2 * math.pi * phase).astype(np.float32)
    # Divided by the slope at the crossing, an edge is one pixel wide: antialiased without oversampling.
    slope = 2 * math.pi * REPEATS * math.sqrt(2) / sketch.side
    return _two_toned(sketch, _step(wave / slope))


def _checker(sketch: Sketch) -> Canvas:
    x, y = _grid(sketch.side)
    slope = 2 * math.pi * REPEATS / sketch.side
    across = _step(np.sin(2 * math.pi * (REPEATS * x + sketch.rng.uniform(-0.04, 0.04))) / slope)
    down = _step(np.sin(2 * math.pi * (REPEATS * y + sketch.rng.uniform(-0.04, 0.04))) / slope)
    return _two_toned(sketch, across + down - 2 * across * down)


def _wood_grain(sketch: Sketch) -> Canvas:
    x, y = _grid(sketch.side)
    ground = _grain(sketch, sketch.background, y, x)
    # The object is inlaid: cut from another plank, so its grain runs the other way.
    inlay = _grain(sketch, sketch.colour, x, y)
    canvas = _over(ground, inlay, sketch.shape.figure)
    return _with_details(canvas, sketch, sketch.colour)


def _watercolour(sketch: Sketch) -> Canvas:
    rng, side = sketch.rng, sketch.side
    paper = _mixed(sketch.background, WHITE, 0.3)
    wobble = _clouds(rng, 9, side)
    soft = _blurred(sketch.shape.figure, side * 0.022)
    painted = _step((soft - 0.5 + 0.36 * (wobble - 0.5)) * 4)
    # Pigment pools along the edge of a wash as it dries.
    rim = 4 * painted * (1 - painted)
    ground = _washed(paper, _clouds(rng, 4, side))
    wash = _washed(_mixed(sketch.colour, WHITE, 0.12), _clouds(rng, 5, side))
    canvas = _over(ground, wash, painted * 0.95)
    canvas = _over(canvas, sketch.colour * np.float32(0.75), rim * 0.45)
    return _with_details(canvas, sketch, sketch.colour, opacity=0.75, blur=side * 0.012)


def _pixel(sketch: Sketch) -> Canvas:
    side = sketch.side
    fine = Image.fromarray((_composed(sketch) * 255).astype(np.uint8))
    coarse = fine.resize((PIXELS_ACROSS, PIXELS_ACROSS), Image.Resampling.BOX)
    cells = np.asarray(coarse, dtype=np.float32) / 255
    cells = cells + sketch.rng.uniform(-0.03, 0.03, (PIXELS_ACROSS, PIXELS_ACROSS, 1)).astype(np.float32)
    index = np.arange(side) * PIXELS_ACROSS // side
    # Tile joints tell a mosaic from a flat picture where there is no edge to be jagged.
    joint = np.diff(index, append=PIXELS_ACROSS) > 0
    tiles = cells[index][:, index]
    joints = np.where(
        tiles.mean(axis=-1, keepdims=True) < 0.2, tiles + np.float32(0.13), tiles * np.float32(0.8)
    )
    return np.where((joint[:, None] | joint[None, :])[..., None], joints, tiles)


def _neon(sketch: Sketch) -> Canvas:
    side = sketch.side
    # Dark enough to glow on, tinted enough to name the background's colour.
    ground = _mixed(BLACK, sketch.background, 0.42 - 0.1 * _luminance(sketch.background))
    light = _mixed(sketch.colour, WHITE, 0.08)
    near = _blurred(sketch.shape.strokes, side * 0.025)
    far = _blurred(sketch.shape.strokes, side * 0.075)
    canvas = np.broadcast_to(ground, (side, side, 3))
    canvas = _over(canvas, light, np.minimum(far * 0.6 + near * 0.5, 1))
    canvas = _over(canvas, light, sketch.shape.strokes)
    core = np.clip(near * 2 - 0.9, 0, 1) * sketch.shape.strokes
    return _over(canvas, WHITE, core * 0.55)


_MEDIA: dict[str, Callable[[Sketch], Canvas]] = {
    "flat": _flat,
    "outline": _outline,
    "stripes": _stripes,
    "checker": _checker,
    "wood grain": _wood_grain,
    "watercolour": _watercolour,
    "pixel": _pixel,
    "neon": _neon,
}


def _composed(sketch: Sketch) -> Canvas:
    paper = np.broadcast_to(sketch.background, (sketch.side, sketch.side, 3))
    canvas = _over(paper, sketch.colour, sketch.shape.figure)
    return _with_details(canvas, sketch, sketch.colour)


def _two_toned(sketch: Sketch, pattern: Coverage) -> Canvas:
    """Background and object in their colour and, where `pattern` is 1, in a second tone of it."""
    paper = _over(sketch.background[None, None], _second_tone(sketch.background), pattern)
    figure = _over(sketch.colour[None, None], _second_tone(sketch.colour), pattern)
    return _with_details(_over(paper, figure, sketch.shape.figure), sketch, sketch.colour)


def _with_details(
    canvas: Canvas, sketch: Sketch, colour: Colour, opacity: float = 1.0, blur: float = 0.0
) -> Canvas:
    shade, light = sketch.shape.shade, sketch.shape.light
    if blur:
        shade, light = _blurred(shade, blur), _blurred(light, blur)
    canvas = _over(canvas, _shade_of(colour), shade * np.float32(opacity))
    return _over(canvas, _light_of(colour), light * np.float32(opacity))


def _luminance(colour: Colour) -> float:
    return float(colour @ np.array([0.299, 0.587, 0.114], dtype=np.float32))


def _second_tone(colour: Colour) -> Colour:
    # Dark colours cannot get darker, so their second tone is lighter.
    return _mixed(colour, WHITE, 0.32) if _luminance(colour) < 0.3 else _mixed(colour, BLACK, 0.3)


def _shade_of(colour: Colour) -> Colour:
    return _mixed(colour, WHITE, 0.42) if _luminance(colour) < 0.2 else _mixed(colour, BLACK, 0.5)


def _light_of(colour: Colour) -> Colour:
    return _mixed(colour, WHITE, 0.8) if _luminance(colour) < 0.8 else _mixed(colour, BLACK, 0.65)


def _grain(sketch: Sketch, colour: Colour, across: Coverage, along: Coverage) -> Canvas:
    """Year rings cut lengthwise: lines that run along one axis, bent by one slow wave."""
    bend = 0.3 * np.sin(2 * math.pi * (along + sketch.rng.uniform()))
    wave = 0.5 + 0.5 * np.sin(2 * math.pi * (REPEATS * across + bend))
    tone = _mixed(_second_tone(colour), BROWN, 0.3)
    return _over(colour[None, None], tone, (wave**2).astype(np.float32))


def _washed(colour: Colour, clouds: Coverage) -> Canvas:
    thin = np.clip((clouds - 0.5) * 1.6, 0, 1)
    thick = np.clip((0.5 - clouds) * 1.6, 0, 1)
    return _over(_over(colour[None, None], WHITE, thin * 0.55), colour * np.float32(0.72), thick * 0.7)


def _clouds(rng: np.random.Generator, cells: int, side: int) -> Coverage:
    """Smooth noise between 0 and 1 with about `cells` blobs across."""
    noise = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    smooth = np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return smooth / np.float32(255)


def _grid(side: int) -> tuple[Coverage, Coverage]:
    """Pixel centres: x [1, side] and y [side, 1], 0..1."""
    along = ((np.arange(side) + 0.5) / side).astype(np.float32)
    return along[None, :], along[:, None]


def _step(height: Coverage) -> Coverage:
    """0 below -0.5, 1 above 0.5, a ramp between."""
    return np.asarray(np.clip(height + np.float32(0.5), 0, 1), dtype=np.float32)


def _blurred(coverage: Coverage, radius: float) -> Coverage:
    image = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    return colour + np.float32(share) * (other - colour)


def _over(below: Canvas, above: NDArray[np.float32], coverage: Coverage) -> Canvas:
    return below + coverage[..., None] * (above - below)
