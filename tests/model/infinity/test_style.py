"""Counted bits, their mean feature and what it tells, against the plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.evaluation.plain_form import phi
from service.model.infinity import schedules as scales
from service.model.infinity.style import (
    agreement,
    combine,
    decompose,
    feature_of,
    pack,
    principal_of,
    unpack,
)
from service.model.schedule import Scale
from service.model.style.blending import singular_values
from service.model.style.feature import StyleFeature, dominance
from service.model.style.tokens import StyleTokens

SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 40))


def bits(seed: int, shape: tuple[int, int], num_images: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, num_images + 1, shape, dtype=np.uint8)


def feature(seed: int, ratio: float = 1.0) -> StyleFeature:
    grids = scales.schedule(ratio, "0.25M").scales
    shape = (sum(grid.num_tokens for grid in grids[:3]), 32)
    return decompose(pack(bits(seed, shape)), grids[:3], grids[-1], 32)


def mean_of(styles: list[StyleFeature]) -> StyleFeature:
    first = styles[0]
    tokens = combine([style.tokens for style in styles], first.num_tokens, first.num_channels)
    return decompose(tokens, first.grids, first.extent, first.num_channels)


def bits_of(style: StyleFeature) -> NDArray[np.uint8]:
    return unpack(style.tokens, style.num_tokens, style.num_channels)


@given(st.integers(0, 2**31), SHAPES, st.integers(1, 255))
def test_counts_survive_their_packing_in_as_few_bits_as_they_need(
    seed: int, shape: tuple[int, int], num_images: int
) -> None:
    counts = bits(seed, shape, num_images)
    tokens = pack(counts, num_images)
    assert len(tokens.packed) == -(-shape[0] * shape[1] * num_images.bit_length() // 8)
    assert np.array_equal(unpack(tokens, *shape), counts)


@given(st.binary(max_size=40), SHAPES, st.integers(-1, 300))
def test_bytes_that_no_packing_gives_are_a_value_error(
    packed: bytes, shape: tuple[int, int], num_images: int
) -> None:
    try:
        read = unpack(StyleTokens(packed, num_images), *shape)
    except ValueError:
        return
    assert pack(read, num_images).packed == packed
    assert read.max() <= num_images


def test_bits_of_too_many_pictures_or_of_other_shapes_are_not_counted_together() -> None:
    many = pack(bits(0, (2, 2), 200), 200)
    with pytest.raises(ValueError, match="at most 255 pictures, not 400"):
        combine([many, many], 2, 2)
    with pytest.raises(ValueError, match="2 bytes are not 1 x 4 bits"):
        combine([pack(bits(0, (2, 2))), pack(bits(0, (3, 3)))], 2, 2)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=10), st.sampled_from(scales.RATIOS))
def test_the_mean_is_that_of_the_whole_features_whatever_their_order(seeds: list[int], ratio: float) -> None:
    styles = [feature(seed, ratio) for seed in seeds]
    mean = mean_of(styles)
    whole = torch.stack([feature_of(style) for style in styles]).mean(0)
    assert torch.allclose(feature_of(mean), whole, atol=1e-5)
    rank = len(mean.singular_values)
    assert np.allclose(mean.singular_values, singular_values(whole).numpy()[:rank], atol=1e-4)
    gaps = mean.singular_values[:-1] - mean.singular_values[1:]
    if gaps.min(initial=1) > 1e-3:  # Phi jumps where two singular values meet
        assert torch.allclose(principal_of(mean, 1.0), phi(whole, 1.0), atol=1e-4)
    assert mean_of(styles[::-1]).to_bytes() == mean.to_bytes()
    assert mean_of([mean_of(styles[:1]), *styles[1:]]).to_bytes() == mean.to_bytes()
    assert StyleFeature.from_bytes(mean.to_bytes()).to_bytes() == mean.to_bytes()


def test_the_mean_of_one_is_itself_and_features_on_other_grids_have_none() -> None:
    assert mean_of([feature(0)]).to_bytes() == feature(0).to_bytes()
    with pytest.raises(ValueError, match="bytes are not"):
        mean_of([feature(0), feature(0, 1.5)])


def test_pictures_that_are_each_others_negative_leave_no_style() -> None:
    one = feature(0)
    mean = mean_of([one, decompose(pack(1 - bits_of(one)), one.grids, one.extent, 32)])
    assert len(mean.singular_values) == 0
    assert dominance(mean) == 0.0
    assert torch.equal(principal_of(mean, 1.0), torch.zeros_like(feature_of(one)))
    assert agreement(mean) == pytest.approx(-1)
    assert StyleFeature.from_bytes(mean.to_bytes()).to_bytes() == mean.to_bytes()


def test_dominance_is_the_share_of_the_first_component() -> None:
    flat = decompose(pack(np.ones((5, 4), np.uint8)), (Scale(1, 1), Scale(2, 2)), Scale(8, 8), 4)
    assert dominance(flat) == pytest.approx(1.0)
    sigma = singular_values(feature_of(feature(1))).double()
    assert dominance(feature(1)) == pytest.approx(float(sigma[0] ** 2 / (sigma**2).sum()), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 10))
def test_agreement_is_the_mean_cosine_of_two_pictures_codes(seed: int, num_images: int) -> None:
    styles = [feature(seed + i) for i in range(num_images)]
    cosines = []
    for start, end in ((0, 1), (1, 5), (5, 21)):
        codes = [bits_of(style)[start:end].astype(float) * 2 - 1 for style in styles]
        cosines.append(
            np.mean([(a * b).mean() for i, a in enumerate(codes) for b in codes[:i]]),
        )
    assert agreement(mean_of(styles)) == pytest.approx(np.mean(cosines))
    assert agreement(mean_of([styles[0]] * num_images)) == pytest.approx(1.0)
    assert agreement(styles[0]) is None


def test_a_feature_kept_before_there_were_several_pictures_is_read() -> None:
    from safetensors.numpy import load, save

    arrays = load(feature(3).to_bytes())
    del arrays["num_images"]
    assert StyleFeature.from_bytes(save(arrays)).to_bytes() == feature(3).to_bytes()
