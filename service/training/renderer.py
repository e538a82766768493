"""Draws a Scene from the things' sprites: the pictures that nano is trained and judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from service.training.scene import PLACEMENTS, POSES, Pose, Scene, jittered, oklab
from service.training.sprites import Sprite, Sprites

Colour = NDArray[np.float32]  # [3], RGB in 0..1
Canvas = NDArray[np.float32]  # [side, side, 3], RGB in 0..1
Coverage = NDArray[np.float32]  # [side, side], 0 outside, 1 inside
BLACK = np.array([0.04, 0.04, 0.06], dtype=np.float32)
WHITE = np.array([0.98, 0.98, 0.97], dtype=np.float32)
BROWN = np.array([0.35, 0.2, 0.08], dtype=np.float32)
# Patterns repeat as often as the model's finest grid has tokens across, so that every token of a pattern
# carries the same code: a pattern that beats against the grid comes out of 64 pixels as grey, and one that
# does not can be read from the coarsest feature, as a style is.
REPEATS = 8
PIXELS_ACROSS = 2 * REPEATS
# Below this distance in Oklab from what is behind it, a thing is given a rim.
MIN_RIM_CONTRAST = 0.28


@dataclass(frozen=True, slots=True)
class Figure:
    """A sprite as placed: its colours, and where it is."""

    colours: Canvas
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Sketch:
    """All that a medium draws from."""

    flat: Callable[[], Figure]
    ink: Callable[[], Figure]
    clay: Callable[[], Figure]
    colour: Colour | None  # None: the thing's own colours
    background: Colour
    side: int
    rng: np.random.Generator


class Renderer:
    """Draws with a set of sprites, in pictures of `side` x `side`."""

    def __init__(self, sprites: Sprites, side: int = 64) -> None:
        self._sprites, self._side = sprites, side
        self._placed = lru_cache(maxsize=None)(self._place)  # 80 MB for 260 things of 64 px

    def render(self, scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
        """RGB picture [side, side, 3] of `scene`; the same scene and generator state give the same bytes.

        KeyError when a word of the scene is not in its list, or when there is no sprite of the thing.
        """
        pose = PLACEMENTS[scene.pose or POSES[rng.integers(len(POSES))]]
        index, colour = self._sprites.index(scene.object), None
        if scene.colour:
            colour = jittered(scene.colour, rng)

        def placed(kind: str) -> Callable[[], Figure]:
            return lambda: _recoloured(_figure(self._placed(kind, index, pose)), colour)

        sketch = Sketch(
            placed("flat"),
            placed("ink"),
            placed("clay"),
            colour,
            jittered(scene.background, rng),
            self._side,
            rng,
        )
        canvas = _MEDIA[scene.medium](sketch)
        return np.asarray(np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8))

    def _place(self, kind: str, index: int, pose: Pose) -> NDArray[np.uint8]:
        sprites: NDArray[np.uint8] = getattr(self._sprites, kind)
        return _placed(sprites[index], pose, self._side)


def _placed(sprite: Sprite, pose: Pose, side: int) -> NDArray[np.uint8]:
    """RGBA [side, side, 4]."""
    image = Image.fromarray(sprite)
    if pose.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    longer = image.width
    if pose.turn_degrees:
        image = image.rotate(pose.turn_degrees, Image.Resampling.BICUBIC, expand=True)
    length = round(pose.size * side * image.width / longer)
    image = image.resize((length, length), Image.Resampling.LANCZOS)
    picture = Image.new("RGBA", (side, side))
    corner = [round((0.5 + shift) * side - length / 2) for shift in (pose.x, pose.y)]
    picture.paste(image, (corner[0], corner[1]))
    return np.asarray(picture)


def _figure(placed: NDArray[np.uint8]) -> Figure:
    pixels = placed.astype(np.float32) / np.float32(255)
    return Figure(pixels[..., :3], pixels[..., 3])


def _recoloured(figure: Figure, colour: Colour | None) -> Figure:
    """In shades of `colour`: lighter and darker where the sprite is, so that details stay."""
    if colour is None:
        return figure
    luminance = _luminance(figure.colours)
    weight = figure.coverage.sum() + np.float32(1e-6)
    mean = float((luminance * figure.coverage).sum() / weight)
    height = (luminance - np.float32(mean))[..., None]
    own = _luminance(colour)
    # Where there is no room above or below, contrast goes the other way round.
    lighter, darker = (0.9, 1.3) if own < 0.85 else (0.4, 1.6)
    if own < 0.2:
        height = np.where(height < 0, height * np.float32(0.5), height * np.float32(1.2))
    towards_white = np.clip(height * np.float32(lighter), 0, 0.8)
    towards_black = np.clip(-height * np.float32(darker), 0, 0.72)
    shaded = colour + towards_white * (WHITE - colour)
    return Figure(shaded + towards_black * (BLACK - shaded), figure.coverage)


def _flat(sketch: Sketch) -> Canvas:
    return _laid(sketch, _plain(sketch), sketch.flat())


def _ink(sketch: Sketch) -> Canvas:
    """Pen and wash in one ink on tinted paper, the ground hatched."""
    side = sketch.side
    dark_paper = _luminance(sketch.background) < 0.3
    ink = sketch.colour if sketch.colour is not None else (WHITE if dark_paper else BLACK)
    x, y = _grid(side)
    wave = np.sin(2 * np.pi * REPEATS * (x - y))
    hatching = _step((wave - np.float32(0.72)) * np.float32(2.2))
    paper = _over(_plain(sketch), _mixed(sketch.background, WHITE if dark_paper else BLACK, 0.5), hatching)
    lines, figure = sketch.ink().coverage, sketch.flat()
    # The hatching keeps a distance from the drawing.
    near = _step(
        (_blurred(np.maximum(lines, figure.coverage), side * 0.05) - np.float32(0.06)) * np.float32(12)
        - np.float32(0.5)
    )
    paper = _over(paper, _plain(sketch), near)
    # In the tones of the flat picture: where a drawing is filled with ink, the wash is all there is inside.
    tone = np.clip(_luminance(figure.colours), 0, 1)[..., None]
    dark, light = (sketch.background, ink) if dark_paper else (ink, _mixed(sketch.background, WHITE, 0.75))
    wash = dark + (np.float32(0.2) + np.float32(0.8) * tone) * (light - dark)
    filled = _filled(lines)
    return _over(
        _over(paper, wash, figure.coverage), ink, lines * (1 - np.float32(0.9) * filled * figure.coverage)
    )


def _clay(sketch: Sketch) -> Canvas:
    """A model in a studio: light from above, a round floor and a soft shadow."""
    side = sketch.side
    x, y = _grid(side)
    light = np.clip(1.0 - 1.5 * np.hypot(x - 0.5, (y - 0.42) * 0.9), 0, 1).astype(np.float32)
    ground = _over(
        _mixed(sketch.background, BLACK, 0.3)[None, None], _mixed(sketch.background, WHITE, 0.2), light
    )
    figure = sketch.clay()
    low = _shifted(figure.coverage, round(0.03 * side), round(0.07 * side))
    shadow = _blurred(low, side * 0.045)
    ground = _over(ground, BLACK, shadow * np.float32(0.55))
    return _laid(sketch, ground, figure, rim=0.6)


def _neon(sketch: Sketch) -> Canvas:
    side = sketch.side
    # Dark enough to glow on, tinted enough to name the background's colour.
    luminance = _luminance(sketch.background)
    vivid = np.clip(luminance + np.float32(1.3) * (sketch.background - luminance), 0, 1)
    ground = _mixed(BLACK, vivid, 0.56 - 0.16 * float(luminance))
    figure, lines = sketch.flat(), sketch.ink().coverage
    # Drawings fill large parts with ink; a tube has a width.
    tube = lines * (1 - np.float32(0.85) * _filled(lines))
    light = _lit(sketch, figure)
    near = _blurred(tube, side * 0.025)
    far = _blurred(tube, side * 0.08)
    canvas = np.broadcast_to(ground, (side, side, 3))
    canvas = _over(canvas, light, np.clip(far * 0.7 + near * 0.5, 0, 1))
    canvas = _over(canvas, light, tube)
    core = np.clip(near * 2 - 0.9, 0, 1) * tube
    return _over(canvas, WHITE, core * 0.5)


def _lit(sketch: Sketch, figure: Figure) -> Canvas:
    """The colours that tubes glow in: those of the figure there, light and saturated."""
    side = sketch.side
    if sketch.colour is not None:
        return np.broadcast_to(_mixed(sketch.colour, WHITE, 0.08), (side, side, 3))
    weight = _blurred(figure.coverage, side * 0.07) + np.float32(1e-3)
    blurred = np.stack(
        [
            _blurred(figure.colours[..., channel] * figure.coverage, side * 0.07) / weight
            for channel in range(3)
        ],
        axis=-1,
    )
    top = blurred.max(axis=-1, keepdims=True)
    bottom = blurred.min(axis=-1, keepdims=True)
    spread = np.maximum(top - bottom, np.float32(0.04))
    # The hue stays; grey things glow white.
    vivid = (blurred - bottom) / spread
    share = np.clip(spread * 5, 0, 1)
    return np.asarray(np.clip(share * (0.22 + 0.78 * vivid) + (1 - share) * WHITE, 0, 1), dtype=np.float32)


def _pixel(sketch: Sketch) -> Canvas:
    side = sketch.side
    fine = Image.fromarray(
        (np.clip(_laid(sketch, _plain(sketch), sketch.flat()), 0, 1) * 255).astype(np.uint8)
    )
    coarse = fine.resize((PIXELS_ACROSS, PIXELS_ACROSS), Image.Resampling.BOX)
    cells = np.asarray(coarse, dtype=np.float32) / 255
    index = np.arange(side) * PIXELS_ACROSS // side
    # Tile joints tell a mosaic from a flat picture where there is no edge to be jagged.
    joint = np.diff(index, append=PIXELS_ACROSS) > 0
    tiles = cells[index][:, index]
    joints = np.where(
        tiles.mean(axis=-1, keepdims=True) < 0.2, tiles + np.float32(0.15), tiles * np.float32(0.76)
    )
    return np.where((joint[:, None] | joint[None, :])[..., None], joints, tiles)


def _watercolour(sketch: Sketch) -> Canvas:
    """Washes on paper whose edge stays dry; pigment pools along their rims."""
    rng, side = sketch.rng, sketch.side
    paper = _mixed(WHITE, sketch.background, 0.06)
    x, y = _grid(side)
    wobble = _clouds(rng, 9, side)
    inside = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    wet = _step((inside - 0.05 + 0.07 * (wobble - 0.5)) * 22)
    ground = _washed(_mixed(sketch.background, WHITE, 0.06), _clouds(rng, 4, side))
    canvas = _over(np.broadcast_to(paper, (side, side, 3)), ground, wet)
    canvas = _over(canvas, sketch.background * np.float32(0.8), 4 * wet * (1 - wet) * 0.5)
    figure = sketch.flat()
    soft = _blurred(figure.coverage, side * 0.014)
    painted = _step((soft - 0.5 + 0.3 * (wobble - 0.5)) * 4)
    bled = np.stack([_blurred(figure.colours[..., channel], side * 0.01) for channel in range(3)], axis=-1)
    thin = np.clip((_clouds(rng, 5, side) - 0.35) * 1.1, 0, 0.4)[..., None]
    wash = bled + thin * (WHITE - bled)
    canvas = _over(canvas, wash, painted * 0.94)
    inner = painted * (1 - _blurred(painted, side * 0.025))
    rim: Coverage = np.clip(4 * painted * (1 - painted) + np.float32(1.6) * inner, 0, 1)
    return _over(canvas, bled * np.float32(0.5), rim * 0.8)


def _stripes(sketch: Sketch) -> Canvas:
    x, y = _grid(sketch.side)
    # Divided by the slope at the crossing, an edge is one pixel wide: antialiased without oversampling.
    slope = 2 * np.pi * REPEATS * np.sqrt(2) / sketch.side
    falling, rising = (_step(np.sin(2 * np.pi * REPEATS * (x + sign * y)) / slope) for sign in (1, -1))
    ground = _over(_plain(sketch), _second_tone(_plain(sketch), 0.32), falling)
    figure = sketch.flat()
    striped = _over(figure.colours, _second_tone(figure.colours, 0.16), rising)
    return _laid(sketch, ground, Figure(striped, figure.coverage), rim=1.0)


def _wood_grain(sketch: Sketch) -> Canvas:
    x, y = _grid(sketch.side)
    figure = sketch.flat()
    ground = _grain(sketch, _plain(sketch), y, x, 0.5)
    # The thing is inlaid: cut from another plank, so its grain runs the other way.
    inlay = _grain(sketch, figure.colours, x, y, 0.22)
    return _laid(sketch, ground, Figure(inlay, figure.coverage), rim=1.0)


_MEDIA: dict[str, Callable[[Sketch], Canvas]] = {
    "flat": _flat,
    "ink": _ink,
    "clay": _clay,
    "neon": _neon,
    "pixel": _pixel,
    "watercolour": _watercolour,
    "stripes": _stripes,
    "wood grain": _wood_grain,
}


def _plain(sketch: Sketch) -> Canvas:
    return np.broadcast_to(sketch.background, (sketch.side, sketch.side, 3))


def _laid(sketch: Sketch, ground: Canvas, figure: Figure, rim: float = 0.9) -> Canvas:
    """The figure on the ground, with a rim where it would melt into it: red apples on red are seen, too."""
    edge = np.clip(_blurred(figure.coverage, sketch.side * 0.02) * 3, 0, 1)
    border = figure.coverage * (1 - np.clip(_blurred(figure.coverage, sketch.side * 0.03) * 2 - 1, 0, 1))
    weight = border.sum() + np.float32(1e-6)
    mean = (figure.colours * border[..., None]).sum((0, 1)) / weight
    distance = float(np.linalg.norm(oklab(mean) - oklab(sketch.background)))
    if distance < MIN_RIM_CONTRAST:
        tone = WHITE if _luminance(sketch.background) < 0.6 else BLACK
        ground = _over(ground, tone, edge * np.float32(rim))
    return _over(ground, figure.colours, figure.coverage)


def _filled(lines: Coverage) -> Coverage:
    """Where a drawing is filled, and not a line."""
    return np.clip(_blurred(lines, len(lines) * 0.022) * 3 - np.float32(1.9), 0, 1)


def _luminance(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(colour @ np.array([0.299, 0.587, 0.114], dtype=np.float32))


def _second_tone(colours: Canvas, share: float) -> Canvas:
    # Dark colours cannot get darker, so their second tone is lighter.
    dark = (_luminance(colours) < 0.3)[..., None]
    return np.where(dark, _mixed(colours, WHITE, share), _mixed(colours, BLACK, share))


def _grain(sketch: Sketch, colours: Canvas, across: Coverage, along: Coverage, share: float) -> Canvas:
    """Year rings cut lengthwise: lines that run along one axis, bent by one slow wave."""
    bend = 0.3 * np.sin(2 * np.pi * (along + sketch.rng.uniform()))
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (REPEATS * across + bend))
    tone = _mixed(_second_tone(colours, share), BROWN, 0.35)
    return _over(_mixed(colours, BROWN, 0.08), tone, (wave**2).astype(np.float32))


def _washed(colour: Colour, clouds: Coverage) -> Canvas:
    thin = np.clip((clouds - 0.5) * 1.6, 0, 1)
    thick = np.clip((0.5 - clouds) * 1.6, 0, 1)
    return _over(_over(colour[None, None], WHITE, thin * 0.3), colour * np.float32(0.78), thick * 0.6)


def _clouds(rng: np.random.Generator, cells: int, side: int) -> Coverage:
    """Smooth noise between 0 and 1 with about `cells` blobs across."""
    noise = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    smooth = np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return smooth / np.float32(255)


def _grid(side: int) -> tuple[Coverage, Coverage]:
    """Pixel centres: x [1, side] and y [side, 1], 0..1."""
    along = ((np.arange(side) + 0.5) / side).astype(np.float32)
    return along[None, :], along[:, None]


def _step(height: NDArray[np.floating]) -> Coverage:
    """0 below -0.5, 1 above 0.5, a ramp between."""
    return np.asarray(np.clip(height + np.float32(0.5), 0, 1), dtype=np.float32)


def _shifted(coverage: Coverage, x: int, y: int) -> Coverage:
    moved = np.zeros_like(coverage)
    moved[y:, x:] = coverage[: len(coverage) - y, : len(coverage) - x]
    return moved


def _blurred(coverage: Coverage, radius: float) -> Coverage:
    levels = np.clip(coverage * 255, 0, 255).astype(np.uint8)
    image = Image.fromarray(levels).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _mixed(colour: NDArray[np.float32], other: Colour, share: float) -> NDArray[np.float32]:
    return colour + np.float32(share) * (other - colour)


def _over(below: Canvas, above: NDArray[np.float32], coverage: Coverage) -> Canvas:
    return below + coverage[..., None].astype(np.float32) * (above - below)
