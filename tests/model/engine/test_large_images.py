"""All fifteen shapes of a megapixel, drawn from end to end by narrow models of both kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Styling, WeightedStyle
from service.model.infinity.config import InfinityConfig
from service.model.infinity.presets import RELEASED
from service.model.schedule import Size
from tests.support.tiny import tiny_infinity

pytestmark = pytest.mark.slow


def narrow(name: str) -> InfinityConfig:
    """A released configuration with its schedules, strides and patch, in the least width there is."""
    config = RELEASED[name].config
    transformer = replace(
        config.transformer, depth=1, width=64, num_heads=1, text_channels=128, num_chunks=1, max_text_tokens=8
    )
    tokenizer = replace(config.tokenizer, channels=4, num_blocks=1, num_groups=2)
    return replace(config, transformer=transformer, tokenizer=tokenizer)


BACKBONES = {name: tiny_infinity(narrow(name)) for name in ("infinity-2b", "infinity-8b")}
GENERATORS = {name: Generator(backbone) for name, backbone in BACKBONES.items()}
SIZES = GENERATORS["infinity-2b"].sizes


def test_the_fifteen_shapes_are_the_published_ones() -> None:
    portrait = [(896, 1120), (864, 1152), (832, 1248), (768, 1344), (720, 1440), (640, 1600), (592, 1776)]
    expected = {Size(1024, 1024)} | {Size(*sides) for tall in portrait for sides in (tall, tall[::-1])}
    assert {*SIZES} == {*GENERATORS["infinity-8b"].sizes} == expected


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_style_in_every_shape_changes_the_image_after_the_key_step(name: str, size: Size) -> None:
    generator = GENERATORS[name]
    picture = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    style = generator.extract_style(picture, size)
    grids = BACKBONES[name].feature_grids(generator.backbone.schedules[size])
    assert (style.grids, style.extent) == (grids[:3], grids[-1])
    plain = ImageSpec("a red star", 1, size, guidance=1.0)
    styled = replace(plain, styling=Styling((WeightedStyle(style),)))
    drawings = generator.generate([plain, styled])
    assert [drawing.image.shape for drawing in drawings] == [(size.height, size.width, 3)] * 2
    assert drawings[0].num_image_tokens == sum(
        scale.num_tokens for scale in generator.backbone.schedules[size].scales
    )
    assert not np.array_equal(drawings[0].image, drawings[1].image)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_style_code_is_stretched_over_another_shape(name: str) -> None:
    generator = GENERATORS[name]
    picture = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    square = generator.extract_style(picture, generator.style_size)
    for size in (SIZES[0], Size(592, 1776), Size(1776, 592)):
        stretched = generator.restore_style(square.tokens, size)
        assert stretched.grids == square.grids
        assert stretched.extent == BACKBONES[name].feature_grids(generator.backbone.schedules[size])[-1]
    wide = generator.extract_style(picture, Size(1776, 592))
    assert wide.num_tokens != square.num_tokens  # the picture itself is cut into that shape's own tokens
