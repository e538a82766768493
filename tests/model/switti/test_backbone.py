"""What is Switti's own behind the engine's seam; what both backbones promise is tested with the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from service.model.engine.generator import Generator
from service.model.engine.quality import EXACT, Quality, Shortcuts
from service.model.engine.types import ImageSpec, Path, Styling
from service.model.switti.backbone import Cache, Seeds, Switti
from service.model.switti.style import unpack
from service.model.switti.text_encoders import TextFeatures
from tests.support.backbones import generator_of, style_of
from tests.support.specs import SQUARE, picture, specs
from tests.support.tiny_switti import served_config, tiny_switti

VARIANTS = pytest.mark.parametrize("backbone", ["switti", "switti-ar"])
PLAIN = ImageSpec("a red star", 11, SQUARE)


def switti_of(backbone: str) -> Switti:
    found = generator_of(backbone).backbone
    assert isinstance(found, Switti)
    return found


class Watching(Switti):
    """On another one's weights; keeps its codes and what it decodes."""

    def __init__(self, of: Switti) -> None:
        super().__init__(of.config, of.transformer, of.tokenizer, of.text_encoders, fingerprint="0" * 16)
        self.codes: list[Tensor] = []
        self.rows: list[int] = []

    def sample(self, cache: Cache, logits: Tensor, noise: Seeds, step: int) -> Tensor:
        codes = super().sample(cache, logits, noise, step)
        self.codes.append(codes)
        self.rows.append(len(cache.active.rows.rows))
        return codes


def test_the_number_that_a_request_names_is_what_guidance_grows_by() -> None:
    switti = switti_of("switti")
    assert switti.guidance == switti.config.sampling.guidance_growth == 6.0
    assert switti.guidance_of_steps(5.0, 6) == (1.0, 2.0, 3.0, 4.0, 5.0, 1.0)
    assert set(switti.guidance_of_steps(0.0, 6)) == {1.0}


@VARIANTS
def test_rows_that_only_guide_are_dropped_when_guidance_ends(backbone: str) -> None:
    watching = Watching(switti_of(backbone))
    Generator(watching).generate([replace(PLAIN, styling=Styling((style_of(backbone, 0),)))])
    assert watching.rows == [2, 2, 2, 4, 4, 1]  # at the last step only the drawn path's


@VARIANTS
def test_a_negative_prompt_takes_the_null_prompts_place(backbone: str) -> None:
    (plain, empty, red) = generator_of(backbone).generate(
        [PLAIN, replace(PLAIN, negative_prompt=""), replace(PLAIN, negative_prompt="red")]
    )
    assert np.array_equal(plain.image, empty.image)
    assert not np.array_equal(plain.image, red.image)
    texts = switti_of(backbone).encode_texts(["", "red"])
    null, negative = (text.conditioning for text in texts)
    assert isinstance(null, TextFeatures)
    assert not torch.equal(null.pooled, negative.pooled)


@VARIANTS
def test_a_text_gives_the_tokens_of_its_own_images_first_steps(backbone: str) -> None:
    watching = Watching(switti_of(backbone))
    tokens = Generator(watching).tokens_of_text("a red star", 11)
    read = torch.cat([watching.tokenizer.nearest(codes.flatten(2).mT) for codes in watching.codes], 1)
    assert np.array_equal(unpack(tokens, 1 + 4 + 9, 300), read.numpy())
    drawn = Watching(switti_of(backbone))
    Generator(drawn).generate([PLAIN])
    for ours, theirs in zip(watching.codes, drawn.codes, strict=False):
        assert torch.equal(ours, theirs)


def test_a_style_of_several_pictures_does_not_depend_on_their_order_and_has_an_agreement() -> None:
    generator = generator_of("switti")
    tokens = [generator.read_tokens(picture(seed), SQUARE) for seed in range(4)]
    together, reversed_ = (generator.combine_tokens(parts, SQUARE) for parts in (tokens, tokens[::-1]))
    assert together == reversed_
    style = generator.decompose(together, SQUARE)
    agreement = generator.backbone.style_agreement(style)
    assert agreement is not None
    assert -1 <= agreement <= 1
    with pytest.raises(ValueError, match="at most 100 pictures, not 104"):
        generator.combine_tokens([together] * 26, SQUARE)


@pytest.mark.parametrize("packed", [b"", bytes(22), b"\xff" * 16])
def test_tokens_of_another_model_are_refused(packed: bytes) -> None:
    generator = generator_of("switti")
    tokens = replace(generator.read_tokens(picture(0), SQUARE), packed=packed)
    with pytest.raises(ValueError, match="bytes are not"):
        generator.restore_style(tokens, SQUARE)


def test_low_quality_leaves_out_the_last_scale_and_medium_nothing() -> None:
    generator = generator_of("switti")
    shortcuts = generator.qualities.shortcuts()
    assert shortcuts[Quality.MEDIUM] == EXACT
    assert shortcuts[Quality.LOW] == Shortcuts(stop_after=5)
    exact, short = (
        generator.generate([replace(PLAIN, shortcuts=one)])[0] for one in (EXACT, shortcuts[Quality.LOW])
    )
    assert short.image.shape == exact.image.shape
    assert short.num_image_tokens == exact.num_image_tokens - 64
    assert not np.array_equal(short.image, exact.image)


def test_decoding_in_strips_is_refused_in_a_sentence() -> None:
    of = switti_of("switti")
    with pytest.raises(ValueError, match="ATELIER_DECODING is strips, and tiny-switti decodes images whole"):
        Switti(of.config, of.transformer, of.tokenizer, None, fingerprint="0" * 16, decoding="strips")


def test_logits_that_are_not_finite_are_an_error_and_no_image() -> None:
    broken = tiny_switti()
    broken.transformer.head.bias[3] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        Generator(broken).generate([PLAIN])


@VARIANTS
def test_the_form_that_gpus_and_compilers_run_draws_nearly_the_same(backbone: str) -> None:
    """Codes are drawn and mixed from scores in another order of sums: features stay near."""
    exact, fused = (Watching(tiny_switti(served_config(is_causal=backbone == "switti-ar"))) for _ in range(2))
    fused.is_fused = True
    batch = specs(generator_of(backbone), SQUARE)[:4]
    for watching in (exact, fused):
        Generator(watching).generate(batch)
    for ours, theirs in zip(fused.codes[:3], exact.codes[:3], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_only_the_causal_variant_caches_keys_and_values() -> None:
    for backbone, num_layers in (("switti", 0), ("switti-ar", 2)):
        switti = switti_of(backbone)
        (text,) = switti.encode_texts(["a red star"])
        path = Path(text, None, switti.guidance_of_steps(6.0, 6))
        cache = switti.begin([path], switti.schedules[SQUARE], 6)
        assert len(cache.key_values.keys) == len(cache.key_values.values) == num_layers
