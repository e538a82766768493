"""Guidance, top-k, top-p and the smooth mixture against their definitions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.evaluation.verify_switti import GivenNoise
from service.model.switti.config import SamplingConfig
from service.model.switti.noise import StepNoise
from service.model.switti.presets import PRESETS
from service.model.switti.sampling import (
    couple_tokens,
    draw_codes,
    draw_tokens,
    guidance_of_steps,
    guided,
    is_smooth,
    mix_codes,
    scaled,
    temperature_at,
)

CPU = torch.device("cpu")
SAMPLING = SamplingConfig(num_guided_steps=4)


def by_definition(logits: Tensor, noise: Tensor, top_k: int, top_p: float) -> Tensor:
    """Masks over all codes, as the golden README has them, and a draw over all codes."""
    logits = logits.clone()
    if top_k > 0:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits[logits < kth] = -torch.inf
    if top_p > 0:
        values, order = logits.sort(-1)
        removed = values.softmax(-1).cumsum(-1) <= 1 - top_p
        removed[..., -1] = False
        logits[removed.scatter(-1, order, removed)] = -torch.inf
    return (logits.softmax(-1) / noise).argmax(-1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_codes=st.integers(2, 60),
    top_k=st.integers(0, 70),
    top_p=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    spread=st.sampled_from([0.1, 1.0, 8.0]),
)
def test_a_draw_is_what_the_definition_draws(
    seed: int, num_codes: int, top_k: int, top_p: float, spread: float
) -> None:
    logits = torch.randn(2, 7, num_codes, generator=torch.Generator().manual_seed(seed)) * spread
    noise = StepNoise((seed, seed + 1), 3, CPU)
    drawn = draw_tokens(logits, noise, top_k=top_k, top_p=top_p)
    assert torch.equal(drawn, by_definition(logits, noise.of_all(7, num_codes), top_k, top_p))


def test_greedy_takes_the_most_likely_code_whatever_the_noise() -> None:
    logits = torch.randn(2, 5, 30)
    noise = GivenNoise(torch.full((2, 5, 30), torch.nan))
    assert torch.equal(draw_tokens(logits, noise, top_k=1, top_p=0.0), logits.argmax(-1))


def test_of_one_code_that_has_all_the_mass_it_is_drawn() -> None:
    logits = torch.full((1, 3, 20), -50.0)
    logits[..., 4] = 50.0
    assert draw_tokens(logits, StepNoise((0,), 1, CPU), top_k=0, top_p=0.5).tolist() == [[4, 4, 4]]


def test_codes_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1, 20_000, 4)
    drawn = draw_tokens(logits, StepNoise((9,), 1, CPU), top_k=0, top_p=0.0)
    shares = drawn.flatten().bincount(minlength=4) / drawn.numel()
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.012)
    without = draw_tokens(logits, StepNoise((9,), 1, CPU), top_k=0, top_p=0.9)
    assert without.max() == 2  # the least likely has less than a tenth


def test_guidance_grows_and_stops() -> None:
    assert guidance_of_steps(SAMPLING, 5) == (1.0, 2.5, 4.0, 5.5, 1.0)
    for preset in PRESETS.values():
        num_steps = len(preset.config.grids)
        weights = guidance_of_steps(preset.config.sampling, num_steps)
        assert weights[0] == 1.0
        assert weights[-1] == 1.0
        assert weights[1] == pytest.approx(1 + 6 / (num_steps - 1))
        assert sum(weight > 1 for weight in weights) == preset.config.sampling.num_guided_steps - 1


def test_what_is_guided_leans_away_from_the_null_prompt() -> None:
    conditional, unconditional = torch.randn(2, 1, 3, 8).unbind(0)
    assert torch.equal(guided(conditional, unconditional, 1.0), conditional)
    ours = guided(conditional, unconditional, 3.0)
    assert torch.allclose(ours, conditional + 2 * (conditional - unconditional), atol=1e-5)


def test_temperature_and_smoothness_follow_the_guided_steps() -> None:
    assert [temperature_at(SAMPLING, step) for step in range(1, 7)] == [1.0] * 4 + [0.1] * 2
    assert [is_smooth(SAMPLING, step) for step in range(1, 7)] == [False, False, True, True, False, False]
    assert not is_smooth(replace(SAMPLING, smooth_start_step=None), 3)
    logits = torch.randn(1, 2, 5)
    assert torch.equal(scaled(logits, SAMPLING, 5), logits / 0.1)
    assert scaled(logits, SAMPLING, 4) is logits


def test_a_mixture_is_a_gumbel_softmax_of_codes() -> None:
    logits, codebook, ratio = torch.randn(2, 5, 30), torch.randn(30, 8), 0.5
    noise = StepNoise((3, 4), 2, CPU)
    mixed = mix_codes(logits, noise, codebook, ratio)
    gumbel = -noise.of_all(5, 30).log()
    weights = ((logits * 1.5 + gumbel) / (0.27 * (1 - 0.475))).softmax(-1)
    assert torch.allclose(mixed, weights @ codebook, atol=1e-5)
    assert torch.equal(mix_codes(logits[1:], StepNoise((4,), 2, CPU), codebook, ratio)[0], mixed[1])


def test_at_the_last_step_the_mixture_is_nearly_one_code() -> None:
    logits, codebook = torch.zeros(1, 3, 30), torch.randn(30, 8)
    logits[0, torch.arange(3), torch.tensor([4, 0, 29])] = 1.0
    mixed = mix_codes(logits, GivenNoise(torch.ones(1, 3, 30)), codebook, 1.0)
    assert torch.allclose(mixed[0], codebook[[4, 0, 29]], atol=1e-5)


def test_a_step_mixes_or_draws() -> None:
    logits, codebook, noise = torch.randn(1, 5, 30), torch.randn(30, 8), StepNoise((3,), 2, CPU)
    drawn = draw_codes(logits, noise, codebook, SAMPLING, 2, 5)
    tokens = draw_tokens(logits, noise, top_k=400, top_p=0.95)
    assert torch.equal(drawn, codebook[tokens])
    mixed = draw_codes(logits, noise, codebook, SAMPLING, 3, 5)
    assert torch.equal(mixed, mix_codes(logits, noise, codebook, 0.5))


def test_coupled_tokens_keep_the_models_distribution_and_leave_few_of_the_pictures_codes() -> None:
    num = 50_000
    reference = torch.tensor([2.0, 1.0, 0.0, -1.0, -60.0]).expand(1, num, 5)
    logits = torch.tensor([1.5, 1.5, 0.0, -1.0, -60.0]).expand(1, num, 5)
    seeded = torch.Generator().manual_seed(3)
    of_picture = torch.multinomial(reference[0, 0].softmax(-1), num, replacement=True, generator=seeded)[None]
    fresh = StepNoise((7,), 1, CPU)
    assert torch.equal(couple_tokens(reference, reference, of_picture, fresh), of_picture)
    unlikely = torch.full_like(of_picture, 4)  # whose probability is 0 in fp32
    assert torch.equal(couple_tokens(reference * 10, reference * 10, unlikely, fresh), unlikely)
    drawn = couple_tokens(logits, reference, of_picture, fresh)
    shares = torch.bincount(drawn[0], minlength=5) / num
    assert torch.allclose(shares, logits[0, 0].softmax(-1), atol=0.01)
    assert (drawn != of_picture).float().mean() < 0.25  # of independent draws 0.6 differ
