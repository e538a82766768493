"""Pictures from outside the renderer's world, so that the image tokenizer copes with any upload.

They have no caption and the transformer never sees them: gradients, blobs, textures, noise, landscapes and
collages, in colours that photographs and paintings have as well as in loud ones.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Canvas = NDArray[np.float32]  # [side, side, 3], RGB in 0..1


def outside_picture(rng: np.random.Generator, side: int = 64) -> NDArray[np.uint8]:
    """RGB picture [side, side, 3]; the same generator state gives the same bytes."""
    kinds = (_gradient, _blobs, _pattern, _clouds, _landscape, _collage)
    canvas = kinds[rng.integers(len(kinds))](rng, side)
    if rng.random() < 0.3:  # the grain of film and sensors
        canvas = canvas + rng.normal(0, rng.uniform(0.01, 0.06), canvas.shape).astype(np.float32)
    return np.asarray(np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> Canvas:
    # Half muted as in photographs, half of any strength.
    saturation = rng.uniform(0, 0.45) if rng.random() < 0.5 else rng.uniform(0, 1)
    return np.array(colorsys.hls_to_rgb(rng.uniform(), rng.uniform(0.03, 0.97), saturation), dtype=np.float32)


def _field(rng: np.random.Generator, cells: int, side: int) -> Canvas:
    """Smooth noise [side, side, 1] between 0 and 1, with about `cells` blobs across."""
    noise = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    smooth = np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return smooth[..., None] / np.float32(255)


def _mixed(below: Canvas, above: Canvas, share: Canvas) -> Canvas:
    return below + share * (above - below)


def _gradient(rng: np.random.Generator, side: int) -> Canvas:
    along = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = along[None, :, None], along[:, None, None]
    if rng.random() < 0.5:
        turn = rng.uniform(0, 2 * math.pi)
        height = 0.5 + (x - 0.5) * math.cos(turn) + (y - 0.5) * math.sin(turn)
    else:
        height = 1.5 * np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 1))
    return _mixed(_colour(rng), _colour(rng), np.clip(height, 0, 1).astype(np.float32))


def _clouds(rng: np.random.Generator, side: int) -> Canvas:
    canvas = _mixed(_colour(rng), _colour(rng), _field(rng, int(rng.integers(2, 6)), side))
    for cells in (8, 16, 32):
        if rng.random() < 0.6:
            canvas = _mixed(canvas, _colour(rng), rng.uniform(0.1, 0.6) * _field(rng, cells, side))
    return canvas


def _blobs(rng: np.random.Generator, side: int) -> Canvas:
    """Ovals and polygons over a soft ground, some blurred: things out of focus and in it."""
    ground = _gradient(rng, side) if rng.random() < 0.5 else _clouds(rng, side)
    image = Image.fromarray(np.clip(ground * 255, 0, 255).astype(np.uint8)).resize((2 * side, 2 * side))
    pencil = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 9)):
        ink = tuple(int(255 * channel) for channel in _colour(rng))
        x, y = rng.uniform(0, 2 * side, 2)
        wide, high = rng.uniform(0.08, 0.7, 2) * side
        if rng.random() < 0.5:
            pencil.ellipse((x - wide, y - high, x + wide, y + high), fill=ink)
        else:
            turns = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 7)))
            pencil.polygon([(x + wide * math.cos(t), y + high * math.sin(t)) for t in turns], fill=ink)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 6)))
    shaded = np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)
    return shaded * (np.float32(1.2) - np.float32(0.4) * _field(rng, 3, side))


def _pattern(rng: np.random.Generator, side: int) -> Canvas:
    """Waves, dots or weave of any period and direction."""
    along = np.arange(side, dtype=np.float32)
    x, y = along[None, :, None], along[:, None, None]
    turn, period = rng.uniform(0, math.pi), rng.uniform(5, 24)
    u = 2 * math.pi * (x * math.cos(turn) + y * math.sin(turn)) / period + rng.uniform(0, 7)
    v = 2 * math.pi * (y * math.cos(turn) - x * math.sin(turn)) / period + rng.uniform(0, 7)
    waves = np.sin(u) if rng.random() < 0.5 else np.sin(u) * np.sin(v)
    hard = np.clip(0.5 + rng.uniform(0.5, 3) * waves, 0, 1).astype(np.float32)
    return _mixed(_clouds(rng, side), _colour(rng), hard * np.float32(rng.uniform(0.3, 1)))


def _landscape(rng: np.random.Generator, side: int) -> Canvas:
    """Layers behind one another, each with its ridge and light."""
    canvas = _gradient(rng, side)
    rows = np.arange(side, dtype=np.float32)[:, None, None]
    for level in np.sort(rng.uniform(0.25, 0.95, rng.integers(1, 5))):
        ridge = (level + 0.25 * (_field(rng, int(rng.integers(3, 9)), side)[0] - 0.5)) * side
        below = np.clip(rows - ridge[None] + np.float32(0.5), 0, 1)
        canvas = _mixed(canvas, _mixed(_colour(rng), _colour(rng), _field(rng, 6, side)), below)
    return canvas


def _collage(rng: np.random.Generator, side: int) -> Canvas:
    """Two to four of the others side by side."""
    kinds: tuple[Callable[[np.random.Generator, int], Canvas], ...] = (_gradient, _blobs, _pattern, _clouds)
    canvas = kinds[rng.integers(len(kinds))](rng, side)
    for _ in range(rng.integers(1, 4)):
        left, top = rng.integers(0, 3 * side // 4, 2)
        wide, high = rng.integers(side // 6, 3 * side // 4, 2)
        piece = kinds[rng.integers(len(kinds))](rng, side)
        canvas[top : top + high, left : left + wide] = piece[top : top + high, left : left + wide]
    return canvas
