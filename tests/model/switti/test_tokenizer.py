"""The image tokenizer: which convolution, which code, and images that do not disturb each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from service.model.style.resize import pool
from service.model.switti.schedules import GRIDS_512, GRIDS_1024, square_scales
from service.model.switti.tokenizer import Tokenizer, as_planes, as_tokens, phi_index, upsample
from tests.support.tiny_switti import tiny_networks


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_networks().tokenizer


GRIDS = tiny_networks().grids


@pytest.mark.parametrize(
    ("num_steps", "phis"),
    [
        (len(GRIDS_512), [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),
        (len(GRIDS_1024), [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]),
        (6, [0, 0, 1, 2, 3, 3]),
    ],
)
def test_neighbouring_steps_share_a_convolution(num_steps: int, phis: list[int]) -> None:
    assert [phi_index(step, num_steps) for step in range(1, num_steps + 1)] == phis


@torch.inference_mode()
def test_phi_is_half_the_code_and_half_its_convolution(tokenizer: Tokenizer) -> None:
    codes = torch.randn(2, 8, 3, 3)
    planes = F.interpolate(codes, size=(6, 6), mode="bicubic", align_corners=False)
    index = phi_index(3, len(GRIDS))
    assert torch.allclose(
        tokenizer.spread(codes, 3, GRIDS), (planes + tokenizer.phis[index](planes)) / 2, atol=1e-6
    )
    last = torch.randn(1, 8, 6, 6)  # not resized
    index = phi_index(5, len(GRIDS))
    assert torch.allclose(
        tokenizer.spread(last, 5, GRIDS), (last + tokenizer.phis[index](last)) / 2, atol=1e-6
    )


@torch.inference_mode()
def test_tokens_are_the_nearest_codes(tokenizer: Tokenizer) -> None:
    vectors = torch.randn(3, 7, 8)
    expected = torch.cdist(vectors, tokenizer.codebook.weight).argmin(-1)
    assert torch.equal(tokenizer.nearest(vectors), expected)
    codes = tokenizer.codebook.weight
    assert torch.equal(tokenizer.nearest(codes), torch.arange(len(codes)))


@torch.inference_mode()
def test_coding_is_greedy_and_the_first_scales_do_not_depend_on_later_ones(tokenizer: Tokenizer) -> None:
    features = torch.randn(2, 8, 6, 6)
    tokens = tokenizer.quantise(features, GRIDS)
    assert [scale.shape for scale in tokens] == [(2, grid.num_tokens) for grid in GRIDS]
    for ours, first in zip(tokens, tokenizer.quantise(features, GRIDS, 3), strict=False):
        assert torch.equal(ours, first)
    accumulated = tokenizer.accumulated(tokens, GRIDS)
    for step, grid in enumerate(GRIDS[1:], start=2):
        residual = as_tokens(pool(features - accumulated[step - 2], grid))
        assert torch.equal(tokens[step - 1], tokenizer.nearest(residual))


@torch.inference_mode()
def test_accumulating_is_a_running_sum(tokenizer: Tokenizer) -> None:
    tokens = [torch.randint(0, 50, (2, grid.num_tokens)) for grid in GRIDS]
    accumulated = tokenizer.accumulated(tokens, GRIDS)
    assert len(accumulated) == len(GRIDS)
    for step in range(2, len(GRIDS) + 1):
        part = tokenizer.spread(tokenizer.codes(tokens[step - 1], GRIDS[step - 1]), step, GRIDS)
        assert torch.allclose(accumulated[step - 1] - accumulated[step - 2], part, atol=1e-5)
    for ours, first in zip(tokenizer.accumulated(tokens[:3], GRIDS), accumulated, strict=False):
        assert torch.equal(ours, first)


@torch.inference_mode()
def test_an_image_accumulates_bit_for_bit_alike_alone_and_in_a_batch(tokenizer: Tokenizer) -> None:
    tokens = [torch.randint(0, 50, (5, grid.num_tokens)) for grid in GRIDS]
    together = tokenizer.accumulated(tokens, GRIDS)[-1]
    for image in range(5):
        alone = tokenizer.accumulated([scale[image : image + 1] for scale in tokens], GRIDS)[-1]
        assert torch.equal(together[image], alone[0])


@torch.inference_mode()
def test_a_picture_becomes_features_and_features_a_picture(tokenizer: Tokenizer) -> None:
    stride = tokenizer.config.stride
    assert stride == 4
    picture = torch.rand(1, 3, 6 * stride, 6 * stride) * 2 - 1
    features = tokenizer.encode(picture)
    assert features.shape == (1, 8, 6, 6)
    decoded = tokenizer.decode(50 * features)
    assert decoded.shape == picture.shape
    assert decoded.abs().max() <= 1
    tokenizer.hold_decoder_in(torch.bfloat16)
    assert tokenizer.decode(features).dtype == torch.float32
    assert tokenizer.encode(picture).dtype == torch.float32
    tokenizer.hold_decoder_in(torch.float32)


def test_planes_and_tokens_are_row_after_row() -> None:
    (grid,) = square_scales([3])
    tokens = torch.arange(2 * 9 * 4.0).view(2, 9, 4)
    planes = as_planes(tokens, grid)
    assert torch.equal(planes[1, :, 1, 2], tokens[1, 5])
    assert torch.equal(as_tokens(planes), tokens)


def test_what_has_the_size_already_is_left_alone() -> None:
    (grid,) = square_scales([4])
    planes = torch.randn(1, 2, 4, 4)
    assert upsample(planes, grid) is planes
    assert pool(planes, grid) is planes
