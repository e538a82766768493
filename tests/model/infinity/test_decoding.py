"""Decoding in strips is decoding whole, in less memory; and it is known in advance how much either takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity import schedules as scales
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import TokenizerConfig
from service.model.infinity.decoding import DecoderRunner, workspace_bytes
from service.model.infinity.presets import RELEASED
from service.model.infinity.tiled_decoding import decode_in_strips
from service.model.infinity.tokenizer import Tokenizer
from service.model.schedule import Scale
from tests.support.live_bytes import LivePeak
from tests.support.tiny import tiny_infinity

pytestmark = pytest.mark.slow

SMALL = TokenizerConfig(
    num_bits=8, stride=16, channels=16, multipliers=(1, 1, 2, 2, 2), num_blocks=2, num_groups=4
)
PATCHED = replace(SMALL, stride=8, multipliers=(1, 2, 2, 4), num_blocks=1)


def tokenizer(config: TokenizerConfig) -> Tokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Tokenizer(config).eval().requires_grad_(False)
        for parameter in made.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 0.5, 0.3)
    return made


def feature(config: TokenizerConfig, grid: Scale) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, config.num_bits, grid.height, grid.width, generator=generator)


@pytest.mark.parametrize("config", [SMALL, PATCHED])
@pytest.mark.parametrize("strip", [1, 700, 5000, 2**23])
def test_strips_are_the_whole_up_to_rounding(config: TokenizerConfig, strip: int) -> None:
    decoder, given = tokenizer(config).decoder, feature(config, Scale(5, 3))
    whole = decoder(given)
    assert torch.allclose(decode_in_strips(decoder, given, strip=strip), whole, rtol=0, atol=1e-5)
    assert whole.std() > 0.1


def test_in_bf16_strips_are_as_near_to_fp32_as_the_whole() -> None:
    made, given = tokenizer(SMALL), feature(SMALL, Scale(4, 6))
    full = made.decoder(given)
    made.hold_decoder_in(torch.bfloat16)
    whole, strips = made.decoder(given), decode_in_strips(made.decoder, given, strip=5000)
    assert strips.dtype == torch.bfloat16
    assert torch.dist(strips, full) < 1.1 * torch.dist(whole, full)


@pytest.mark.parametrize("name", ["infinity-2b", "infinity-8b"])
@pytest.mark.parametrize("ratio", [1.0, 0.333])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_true_size_strips_take_little_more_than_half_and_neither_takes_more_than_foretold(
    name: str, ratio: float, dtype: torch.dtype
) -> None:
    config = RELEASED[name].config
    grid = scales.schedule(ratio, "1M").scales[-1].times(config.patch)
    with torch.device("meta"), torch.inference_mode():
        made = Tokenizer(config.tokenizer)
        made.hold_decoder_in(dtype)
        given = torch.empty(1, config.tokenizer.num_bits, grid.height, grid.width)
        with LivePeak() as whole:
            made.decoder(given)
        with LivePeak() as strips:
            decode_in_strips(made.decoder, given)
    assert strips.peak < 0.56 * whole.peak
    for peak, in_strips in ((whole.peak, False), (strips.peak, True)):
        foretold = workspace_bytes(config.tokenizer, grid, dtype, in_strips=in_strips)
        # Convolutions' own copies, which are not counted here, are the rest.
        assert peak < foretold < 2.4 * peak


def test_images_are_decoded_whole_where_they_fit_and_else_in_strips() -> None:
    grid, made = Scale(5, 3), tokenizer(SMALL)
    image_bytes = workspace_bytes(SMALL, grid, torch.float32, in_strips=False)
    assert DecoderRunner(made, budget_bytes=image_bytes).num_at_once(grid) == 1
    assert DecoderRunner(made, budget_bytes=image_bytes - 1).num_at_once(grid) == 0
    assert DecoderRunner(made, budget_bytes=image_bytes - 1).num_at_once(Scale(3, 3)) == 1  # a partial image
    assert DecoderRunner(made, "whole", budget_bytes=0).num_at_once(grid) == 1
    assert DecoderRunner(made, "strips", budget_bytes=image_bytes).num_at_once(grid) == 0
    # On the CPU one at a time, whatever fits, so that company does not change an image.
    assert DecoderRunner(made, budget_bytes=10 * image_bytes).num_at_once(grid) == 1
    on_gpu = DecoderRunner(made, budget_bytes=3 * image_bytes, device=torch.device("cuda"))
    assert on_gpu.num_at_once(grid) == 3


def test_an_image_decoded_in_strips_is_the_whole_one_to_within_a_level() -> None:
    whole = tiny_infinity()
    strips = Infinity(
        whole.config,
        whole.transformer,
        whole.tokenizer,
        whole.text_encoder,
        fingerprint="",
        decoding="strips",
    )
    spec = ImageSpec("a red star", 1, next(iter(whole.schedules)))
    images = [Generator(infinity).generate([spec])[0].image.astype(int) for infinity in (whole, strips)]
    assert np.abs(images[0] - images[1]).max() <= 1
    assert np.ptp(images[0]) > 50
