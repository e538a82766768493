"""Styles from text alone, and styles restored from their tokens, on the real Generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.evaluation.plain_form_infinity import PlainInfinity, bits_of
from service.evaluation.recording import Recording
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Styling, WeightedStyle
from service.model.infinity.config import SamplingConfig
from service.model.infinity.style import feature_of, pack, unpack
from service.model.style.feature import StyleFeature
from tests.support.backbones import ON_EVERY_BACKBONE, generator_of
from tests.support.specs import SQUARE, WIDE, picture
from tests.support.tiny import tiny_config, tiny_generator, tiny_infinity

GENERATOR = tiny_generator()
SHAPE = (1 + 4 + 9, 8)  # tokens up to the key step, and channels


def style_of_text(generator: Generator, prompt: str, seed: int) -> StyleFeature:
    return generator.restore_style(generator.tokens_of_text(prompt, seed), SQUARE)


def test_a_text_gives_the_key_steps_feature_of_their_own_plain_image() -> None:
    infinity = tiny_infinity()
    trace = PlainInfinity(infinity).draw(ImageSpec("a red star", 11, SQUARE))
    style = style_of_text(Generator(infinity), "a red star", 11)
    assert np.array_equal(
        unpack(style.tokens, *SHAPE), torch.cat([bits_of(codes) for codes in trace.codes[:3]]).numpy()
    )
    watched = Recording.of(infinity, {"a red star": infinity.encode_text("a red star").conditioning})
    Generator(watched).generate([ImageSpec("a red star", 11, SQUARE)])
    assert torch.allclose(feature_of(style), watched.features[2][0], atol=1e-5)


def test_other_texts_and_other_seeds_give_other_styles_and_the_same_the_same() -> None:
    warm = Generator(tiny_infinity(tiny_config(sampling=SamplingConfig(guidance=3.0, temperature=3.0))))
    styles = [style_of_text(warm, words, seed) for words in ("a red star", "neon") for seed in (0, 1)]
    assert len({style.to_bytes() for style in styles}) == 4
    assert style_of_text(warm, "neon", 1).to_bytes() == styles[3].to_bytes()


@ON_EVERY_BACKBONE
def test_an_image_can_be_drawn_in_a_style_from_text(backbone: str) -> None:
    generator, plain = generator_of(backbone), ImageSpec("a blue cat", 3, SQUARE)
    styled = ImageSpec(
        "a blue cat", 3, SQUARE, styling=Styling((WeightedStyle(style_of_text(generator, "neon", 0)),))
    )
    first, second = generator.generate([plain, styled])
    assert not np.array_equal(first.image, second.image)


def test_logits_that_are_not_finite_are_an_error_and_no_style() -> None:
    broken = tiny_infinity()
    broken.transformer.head.bias[3] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        style_of_text(Generator(broken), "neon", 0)


@ON_EVERY_BACKBONE
def test_a_style_is_restored_from_its_tokens_exactly_at_the_default_size(backbone: str) -> None:
    style = generator_of(backbone).extract_style(picture(0), SQUARE)
    assert (style.num_tokens, style.num_channels) == SHAPE
    assert generator_of(backbone).restore_style(style.tokens, SQUARE).to_bytes() == style.to_bytes()


def test_for_another_shape_a_restored_style_is_stretched_over_the_image() -> None:
    grey = GENERATOR.extract_style(picture(0), SQUARE)
    wide = GENERATOR.restore_style(grey.tokens, WIDE)
    assert feature_of(wide).shape == (8, 8, 12)
    # The mean over the image of an upsampled grid is nearly the mean of its tokens, in any shape.
    assert torch.allclose(feature_of(wide).mean((1, 2)), feature_of(grey).mean((1, 2)), atol=0.1)
    uniform = GENERATOR.restore_style(pack(np.ones(SHAPE, np.uint8)), WIDE)
    assert torch.allclose(feature_of(uniform), torch.full((8, 8, 12), 3 / 8**0.5), atol=1e-6)
