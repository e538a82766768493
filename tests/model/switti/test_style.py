"""The eigen form of Phi against the full SVD, the mean of several pictures, and packed tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.model.style.blending import principal
from service.model.switti.style import (
    agreement,
    combine_tokens,
    feature_of,
    pack_tokens,
    spectrum_of,
    unpack_tokens,
)
from tests.support.tiny_switti import tiny_networks

NETWORKS = tiny_networks()
GRIDS, TOKENIZER = NETWORKS.grids, NETWORKS.tokenizer
NUM_TOKENS = sum(grid.num_tokens for grid in GRIDS[:3])


def phi(feature: Tensor, directions: Tensor, alpha: float) -> Tensor:
    """The shared form, of the directions [rank, channels] of a decomposition."""
    return principal(feature, alpha, directions.double().T)


def by_svd(feature: Tensor, alpha: float) -> Tensor:
    """Phi from its definition: a full SVD of tokens x channels."""
    matrix = feature.flatten(1).T.double()
    u, sigma, vt = torch.linalg.svd(matrix, full_matrices=False)
    decay = torch.exp(-alpha * torch.arange(len(sigma), dtype=torch.float64))
    return (u * (decay * sigma) @ vt).T.reshape(feature.shape)


def random_feature(seed: int, rank: int, channels: int = 8, side: int = 6) -> Tensor:
    """Of this rank, with singular values that fall by a third each: Phi is not continuous where two meet."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(side * side, rank, dtype=torch.float64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(channels, rank, dtype=torch.float64, generator=generator))
    sigma = 10 * 0.66 ** torch.arange(rank, dtype=torch.float64)
    return (left * sigma @ right.T).T.reshape(channels, side, side)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(1, 8),
    alpha=st.sampled_from([0.0, 0.2, 1.0, 5.0]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_the_eigen_form_is_the_full_svd(seed: int, rank: int, alpha: float, scale: float) -> None:
    feature = random_feature(seed, rank) * scale
    found = spectrum_of(feature)
    assert found.directions.shape == (rank, 8)
    ours = phi(feature, found.directions, alpha)
    assert torch.allclose(ours, by_svd(feature, alpha), atol=1e-7 * scale)
    expected = torch.linalg.svdvals(feature.flatten(1))[:rank]
    assert torch.allclose(found.singular_values, expected, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=8, max_size=8),
    alpha=st.sampled_from([0.2, 1.0, 5.0]),
)
def test_signs_of_the_directions_do_not_matter(seed: int, signs: list[float], alpha: float) -> None:
    feature = random_feature(seed, 8)
    directions = spectrum_of(feature).directions
    flipped = directions * torch.tensor(signs, dtype=torch.float64)[:, None]
    assert torch.allclose(phi(feature, flipped, alpha), phi(feature, directions, alpha), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.integers(0, 49), min_size=NUM_TOKENS, max_size=NUM_TOKENS))
def test_of_features_of_tokens_it_is_the_full_svd(tokens: list[int]) -> None:
    with torch.inference_mode():
        feature = feature_of(TOKENIZER, torch.tensor(tokens), GRIDS)
    sigma = torch.linalg.svdvals(feature.flatten(1))
    gaps = (sigma[:-1] - sigma[1:]) / sigma[0]
    if gaps.min() < 1e-4:  # where two singular values meet, directions are not determined
        return
    ours = phi(feature, spectrum_of(feature).directions, 1.0)
    assert torch.allclose(ours, by_svd(feature, 1.0), atol=1e-8 * float(sigma[0]))


def test_no_decay_is_the_feature_itself_and_a_strong_one_its_leading_part() -> None:
    feature = random_feature(3, 8)
    directions = spectrum_of(feature).directions
    assert torch.allclose(phi(feature, directions, 0.0), feature, atol=1e-9)
    leading = torch.linalg.matrix_rank(phi(feature, directions, 60.0).flatten(1), rtol=1e-9)
    assert leading == 1


def test_a_feature_of_nothing_has_no_directions() -> None:
    found = spectrum_of(torch.zeros(8, 6, 6))
    assert len(found.singular_values) == 0
    assert torch.equal(phi(torch.zeros(8, 6, 6), found.directions, 1.0), torch.zeros(8, 6, 6))


def test_fp32_features_stay_fp32() -> None:
    feature = random_feature(1, 5).float()
    ours = phi(feature, spectrum_of(feature).directions, 1.0)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), by_svd(feature, 1.0), atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
def test_a_feature_is_what_the_tokenizer_accumulates(num_steps: int) -> None:
    tokens = [torch.randint(0, 50, (1, grid.num_tokens)) for grid in GRIDS[:num_steps]]
    feature = feature_of(TOKENIZER, torch.cat(tokens, 1)[0], GRIDS)
    assert feature.shape == (8, 6, 6)
    assert torch.allclose(feature.float(), TOKENIZER.accumulated(tokens, GRIDS)[-1][0], atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("num_images", [1, 2, 7])
def test_several_pictures_have_the_mean_of_their_features(num_images: int) -> None:
    tokens = torch.randint(0, 50, (num_images, NUM_TOKENS))
    mean = torch.stack([feature_of(TOKENIZER, image, GRIDS) for image in tokens]).mean(0)
    assert torch.allclose(feature_of(TOKENIZER, tokens, GRIDS), mean, atol=1e-12)


def test_tokens_that_end_within_a_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="6 tokens are not those of whole scales: 1, 5, 14, 39, 75"):
        feature_of(TOKENIZER, torch.zeros(6, dtype=torch.int64), GRIDS)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tokens_are_packed_and_unpacked(data: st.DataObject) -> None:
    num_codes = data.draw(st.sampled_from([2, 3, 50, 4096, 65536]))
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20)))
    size = shape[0] * shape[1]
    flat = data.draw(st.lists(st.integers(0, num_codes - 1), min_size=size, max_size=size))
    tokens = np.array(flat, np.uint16).reshape(shape)
    packed = pack_tokens(tokens, num_codes)
    assert len(packed) == -(-size * max(1, (num_codes - 1).bit_length()) // 8)
    assert np.array_equal(unpack_tokens(packed, shape, num_codes), tokens)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_pictures_combine_alike_in_any_order_and_grouping(data: st.DataObject) -> None:
    flat = data.draw(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=6))
    pictures = np.array(flat, np.uint16)
    shuffled = pictures[data.draw(st.permutations(range(len(flat))))]
    cut = data.draw(st.integers(1, len(flat) - 1))
    whole, grouped = combine_tokens([pictures]), combine_tokens([shuffled[:cut], shuffled[cut:]])
    assert np.array_equal(whole, grouped)
    assert whole.tolist() == sorted(pictures.tolist())


def test_tokens_over_different_scales_do_not_combine() -> None:
    with pytest.raises(ValueError, match="different scales"):
        combine_tokens([np.zeros((1, 5), np.uint16), np.zeros((1, 14), np.uint16)])


def test_equal_pictures_agree_and_unrelated_ones_do_not() -> None:
    codebook = torch.randn(50, 8) + 3  # a mean that all codes share says nothing
    one = torch.randint(0, 50, (1, NUM_TOKENS))
    assert agreement(codebook, one, GRIDS) is None
    assert agreement(codebook, one.repeat(4, 1), GRIDS) == pytest.approx(1.0)
    unrelated = agreement(codebook, torch.randint(0, 50, (200, NUM_TOKENS)), GRIDS)
    assert unrelated == pytest.approx(0.0, abs=0.02)


def test_agreement_is_the_mean_cosine_of_pairs_with_each_scale_counted_alike() -> None:
    codebook, tokens = torch.randn(50, 8), torch.randint(0, 50, (3, 5))
    centred = (codebook - codebook.mean(0))[tokens]
    cosines = torch.stack(
        [torch.cosine_similarity(centred[a], centred[b], dim=-1) for a, b in ((0, 1), (0, 2), (1, 2))]
    ).mean(0)
    expected = (cosines[0] + cosines[1:].mean()) / 2
    assert agreement(codebook, tokens, GRIDS) == pytest.approx(float(expected), abs=1e-5)


def test_one_style_image_takes_21_bytes_at_the_released_size() -> None:
    assert len(pack_tokens(np.zeros(14, np.uint16), 4096)) == 21


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        (bytes(2), "2 bytes are not 3 tokens of 6 bits"),
        (bytes(4), "4 bytes are not 3 tokens of 6 bits"),
        (b"\xff\xff\xc0", "not 3 tokens of 50 codes"),  # a token of 63
        (b"\x00\x00\x01", "not 3 tokens of 50 codes"),  # the bits that fill up are not zero
    ],
)
def test_other_bytes_are_refused(packed: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        unpack_tokens(packed, (3,), 50)
