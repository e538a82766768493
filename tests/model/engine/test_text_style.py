"""Styles from words alone, and styles restored from their bits, on the real Generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.evaluation.recording import Recording
from service.evaluation.two_run import draw
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Styling, WeightedStyle
from service.model.infinity.config import SamplingConfig
from service.model.style.feature import feature_of
from service.model.style.tokens import StyleTokens
from tests.model.engine.test_pairing import SQUARE, WIDE, picture
from tests.support.tiny import tiny_config, tiny_generator, tiny_infinity

GENERATOR = tiny_generator()


def test_words_give_the_key_steps_feature_of_their_own_plain_image() -> None:
    infinity = tiny_infinity()
    trace = draw(infinity, ImageSpec("a red star", 11, SQUARE))
    style = Generator(infinity).imagine_style("a red star", 11)
    assert np.array_equal(style.bits, torch.cat(trace.bits[:3]).numpy())
    watched = Recording(infinity, {"a red star": infinity.encode_text("a red star").features})
    Generator(watched).generate([ImageSpec("a red star", 11, SQUARE)])
    assert torch.allclose(feature_of(style), watched.features[2][0], atol=1e-5)


def test_other_words_and_other_seeds_give_other_styles_and_the_same_the_same() -> None:
    warm = Generator(tiny_infinity(tiny_config(sampling=SamplingConfig(guidance=3.0, temperature=3.0))))
    styles = [warm.imagine_style(words, seed) for words in ("a red star", "neon") for seed in (0, 1)]
    assert len({style.to_bytes() for style in styles}) == 4
    assert warm.imagine_style("neon", 1).to_bytes() == styles[3].to_bytes()


def test_an_image_can_be_drawn_in_an_imagined_style() -> None:
    plain = ImageSpec("a blue cat", 3, SQUARE)
    styled = ImageSpec(
        "a blue cat", 3, SQUARE, styling=Styling((WeightedStyle(GENERATOR.imagine_style("neon", 0)),))
    )
    first, second = GENERATOR.generate([plain, styled])
    assert not np.array_equal(first.image, second.image)


def test_logits_that_are_not_finite_are_an_error_and_no_style() -> None:
    broken = tiny_infinity()
    broken.transformer.head.bias[3] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        Generator(broken).imagine_style("neon", 0)


def test_a_style_is_restored_from_its_bits_exactly_at_the_default_size() -> None:
    style = GENERATOR.extract_style(picture(0), SQUARE)
    assert style.bits.shape == GENERATOR.style_shape
    assert GENERATOR.restore_style(style.counts, SQUARE).to_bytes() == style.to_bytes()


def test_for_another_shape_a_restored_style_is_stretched_over_the_image() -> None:
    grey = GENERATOR.extract_style(picture(0), SQUARE)
    wide = GENERATOR.restore_style(grey.counts, WIDE)
    assert feature_of(wide).shape == (8, 8, 12)
    # The mean over the image of an upsampled grid is nearly the mean of its tokens, in any shape.
    assert torch.allclose(feature_of(wide).mean((1, 2)), feature_of(grey).mean((1, 2)), atol=0.1)
    uniform = GENERATOR.restore_style(StyleTokens(np.ones(GENERATOR.style_shape, np.uint8)), WIDE)
    assert torch.allclose(feature_of(uniform), torch.full((8, 8, 12), 3 / 8**0.5), atol=1e-6)
