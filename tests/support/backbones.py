"""The two backbones, tiny: what tests are parametrised over where both must behave alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest

from service.model.engine.generator import Generator
from service.model.engine.types import WeightedStyle
from tests.support.specs import SQUARE, picture
from tests.support.tiny import tiny_generator
from tests.support.tiny_switti import switti_generator

MAKERS: dict[str, Callable[[], Generator]] = {
    "infinity": tiny_generator,
    "switti": switti_generator,
    "switti-ar": partial(switti_generator, is_causal=True),
}
# For tests of the engine, whose argument it is; both draw SQUARE in six steps with key step 3.
ON_EVERY_BACKBONE = pytest.mark.parametrize("backbone", list(MAKERS))
# For tests over HTTP, which use the fixture `server` or `client`.
SERVED_BY_BOTH = pytest.mark.parametrize("server", ["infinity", "switti"], indirect=True, scope="module")


@cache
def generator_of(backbone: str) -> Generator:
    return MAKERS[backbone]()


@cache
def style_of(backbone: str, seed: int) -> WeightedStyle:
    return WeightedStyle(generator_of(backbone).extract_style(picture(seed), SQUARE))
