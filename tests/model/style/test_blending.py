"""Style features and blending against the paper's own formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.evaluation.plain_form import phi
from service.model.engine.generator import Generator
from service.model.engine.types import Area, Box, Styling, WeightedStyle
from service.model.infinity import schedules as scales
from service.model.infinity.style import decompose, feature_of, pack, principal_of
from service.model.style.blending import PathStyle, directions_of, principal, singular_values, stretched
from service.model.style.feature import StyleFeature
from tests.support.specs import SQUARE, picture
from tests.support.tiny import tiny_infinity


def feature(seed: int, ratio: float = 1.0, num_channels: int = 32, key_step: int = 3) -> StyleFeature:
    grids = scales.schedule(ratio, "0.25M").scales
    tokens = sum(grid.num_tokens for grid in grids[:key_step])
    bits = np.random.default_rng(seed).integers(0, 2, (tokens, num_channels), dtype=np.uint8)
    return decompose(pack(bits), grids[:key_step], grids[-1], num_channels)


@pytest.mark.parametrize(("ratio", "rank"), [(1.0, 19), (1.25, 12), (1.5, 8)])
def test_the_rank_is_that_of_the_upsampled_grids(ratio: float, rank: int) -> None:
    assert len(feature(0, ratio).singular_values) == rank


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(scales.RATIOS), st.sampled_from([0.2, 1.0, 5.0]))
def test_the_decomposition_is_that_of_the_whole_matrix(seed: int, ratio: float, alpha: float) -> None:
    style = feature(seed, ratio)
    whole = feature_of(style)
    sigma = singular_values(whole).numpy()
    assert np.allclose(style.singular_values, sigma[: len(style.singular_values)], atol=1e-4)
    assert np.allclose(sigma[len(style.singular_values) :], 0, atol=1e-4)
    gaps = style.singular_values[:-1] - style.singular_values[1:]
    if gaps.min() > 1e-3:  # Phi jumps where two singular values meet
        assert torch.allclose(principal_of(style, alpha), phi(whole, alpha), atol=1e-4)


def principal_part(feature: torch.Tensor, alpha: float) -> torch.Tensor:
    return principal(feature, alpha, directions_of(feature[None])[0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 5.0))
def test_the_principal_part_from_a_gram_matrix_is_the_papers_svd(seed: int, alpha: float) -> None:
    matrix = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(principal_part(matrix, alpha), phi(matrix, alpha), atol=1e-4)


def test_the_principal_part_does_not_depend_on_signs_or_on_empty_directions() -> None:
    whole = feature_of(feature(3))
    assert torch.allclose(principal_part(-whole, 1.0), -principal_part(whole, 1.0), atol=1e-6)
    assert torch.allclose(principal_part(whole, 0.0), whole, atol=1e-5)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_strength_is_linear_and_exact_at_both_ends(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(8, 6, 6, generator=generator)
    style = torch.randn(8, 6, 6, generator=generator)
    (directions,) = directions_of(own[None])

    def blend(strength: float | torch.Tensor) -> torch.Tensor:
        return PathStyle(style, strength, 1.0, replaces_whole_feature=False).blended(own, directions)

    assert torch.equal(blend(0.0), own)
    full = blend(1.0)
    assert torch.allclose(full, style + (own - principal(own, 1.0, directions)), atol=1e-5)
    assert torch.allclose(blend(0.25), own + 0.25 * (full - own), atol=1e-5)


def test_the_directions_of_a_feature_are_the_same_alone_and_beside_others() -> None:
    features = torch.randn(5, 32, 64, 64, generator=torch.Generator().manual_seed(1))
    for feature_, directions in zip(features, directions_of(features), strict=True):
        assert torch.equal(directions_of(feature_[None])[0], directions)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from(scales.RATIOS), st.sampled_from([8, 14, 24, 32]), st.integers(1, 5)
)
def test_a_feature_survives_its_bytes_and_they_are_few(
    seed: int, ratio: float, channels: int, step: int
) -> None:
    style = feature(seed, ratio, channels, step)
    blob = style.to_bytes()
    again = StyleFeature.from_bytes(blob)
    assert (again.grids, again.extent) == (style.grids, style.extent)
    assert again.tokens == style.tokens
    assert np.array_equal(again.singular_values, style.singular_values)
    assert np.array_equal(again.directions, style.directions)
    assert len(blob) < 10_000


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_a_value_error_or_another_sound_feature(data: st.DataObject) -> None:
    blob = bytearray(feature(5).to_bytes())
    if data.draw(st.booleans()):
        blob = blob[: data.draw(st.integers(0, len(blob) - 1))]
    else:
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        again = StyleFeature.from_bytes(bytes(blob))
    except ValueError:
        return
    assert again.directions.shape == (len(again.singular_values), again.num_channels)
    assert again.num_tokens == sum(grid.num_tokens for grid in again.grids)


def test_a_style_changes_its_own_area_alone_and_areas_that_overlap_share() -> None:
    model = tiny_infinity()
    generator = Generator(model)
    first, second = (WeightedStyle(generator.extract_style(picture(seed), SQUARE)) for seed in range(2))
    own = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(1))
    (directions,) = directions_of(own[None])

    def blended(*styles: WeightedStyle, inside: torch.Tensor | None = None) -> torch.Tensor:
        return PathStyle.of(Styling(styles), model, inside).blended(own, directions)

    columns = np.indices((64, 64))[1]
    left, middle, all_of_it = (Area(columns < 32), Area((columns >= 16) & (columns < 48)), Area(columns >= 0))
    half = blended(replace(first, area=left))
    assert torch.equal(half[..., 4:], own[..., 4:])
    assert torch.allclose(half[..., :4], blended(first)[..., :4], atol=1e-5)
    both = blended(replace(first, area=left), replace(second, area=middle))
    mixed = blended(replace(first, weight=0.5), replace(second, weight=0.5))
    assert torch.allclose(both[..., 2:4], mixed[..., 2:4], atol=1e-5)
    assert torch.allclose(both[..., 4:6], blended(second)[..., 4:6], atol=1e-5)
    weak = blended(replace(first, area=all_of_it, weight=0.25))
    assert torch.allclose(weak, own + 0.25 * (blended(first) - own), atol=1e-5)
    inside = torch.zeros(1, 8, 8)
    inside[..., :2] = 1
    assert torch.equal(blended(first, inside=inside)[..., 2:], own[..., 2:])
    with pytest.raises(ValueError, match="all have areas, or none"):
        blended(replace(first, area=left), second)


def test_a_style_of_a_box_is_that_part_of_the_feature_stretched() -> None:
    feature_ = feature_of(feature(3))
    whole = stretched(feature_, Box(0, 0, 1, 1))
    assert torch.allclose(whole, feature_, atol=1e-5)
    quarter = stretched(feature_, Box(0, 0, 0.5, 0.5))
    assert torch.allclose(quarter[:, ::2, ::2].mean((1, 2)), feature_[:, :16, :16].mean((1, 2)), atol=0.05)
    model = tiny_infinity()
    style = WeightedStyle(Generator(model).extract_style(picture(0), SQUARE))
    boxes = (None, Box(0, 0, 1, 1))
    whole, also_whole = (PathStyle.of(Styling((replace(style, box=box),)), model).feature for box in boxes)
    assert torch.allclose(whole, also_whole, atol=1e-4)
