"""Images to draw: prompts, seeds, guidance, styles, strengths and methods in the combinations that matter."""

from __future__ import annotations

import numpy as np

from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Method, Styling, WeightedStyle
from service.model.schedule import Size

SQUARE, WIDE = Size(64, 64), Size(96, 64)


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return blocks.repeat(20, 0).repeat(20, 1)


def specs(generator: Generator, size: Size) -> list[ImageSpec]:
    """Prompts, seeds, guidance, styles, strengths and methods of every kind, long and short."""
    styles = [WeightedStyle(generator.extract_style(picture(seed), size)) for seed in range(3)]
    long = "a green mug, drawn in neon on a purple wall, " * 4
    return [
        ImageSpec("a red star", 1, size, styling=Styling((styles[0],))),
        ImageSpec("a red star", 1, size, styling=Styling((styles[1],), strength=0.5, alpha=0.2)),
        ImageSpec("a red star", 1, size),
        ImageSpec("a red star", 2, size, styling=Styling((styles[0],), method=Method.PFB)),
        ImageSpec("a blue cat", 1, size, guidance=5.0, styling=Styling((styles[2],), method=Method.REP)),
        ImageSpec(long, 7, size, styling=Styling((styles[2],), alpha=5.0)),
        ImageSpec(
            "a house", 2**32 - 1, size, negative_prompt="red", styling=Styling(tuple(styles), strength=0.3)
        ),
        ImageSpec("a tree", 3, size, negative_prompt=long, guidance=2.0),
        ImageSpec("a fish", 4, size, styling=Styling((styles[1],), method=Method.REP_SAC)),
    ]
