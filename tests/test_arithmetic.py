"""Row-independent linear layers, sampling, and rotary positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from service.model.infinity import scales
from service.model.infinity.rope import rotate, rotations
from service.model.infinity.sampling import draw_noise, sample_bits
from service.model.linear import linear


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(0, 40), st.sampled_from([(192, 576), (64, 48), (768, 192)]))
def test_a_row_rounds_the_same_whoever_is_beside_it(rows: int, offset: int, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight, bias = (
        torch.randn(shape[1], shape[0], generator=generator),
        torch.randn(shape[1], generator=generator),
    )
    x = torch.randn(130, shape[0], generator=generator)
    whole = linear(x, weight, bias)
    assert torch.equal(linear(x[offset : offset + rows], weight, bias), whole[offset : offset + rows])
    assert torch.allclose(whole, F.linear(x, weight, bias), atol=1e-3)


@pytest.mark.parametrize("top_p", [0.0, 0.97])
def test_a_draw_is_torchs_multinomial(top_p: float) -> None:
    logits = torch.randn(50, 8, 2, generator=torch.Generator().manual_seed(1)) * 3
    p = logits.softmax(-1)
    if top_p:
        p = p.masked_fill((p < 0.5) & (p <= 1 - top_p), 0)
    expected = torch.multinomial(
        p.view(-1, 2), 1, replacement=True, generator=torch.Generator().manual_seed(9)
    )
    noise = draw_noise(torch.Generator().manual_seed(9), 400).view(50, 8, 2)
    assert torch.equal(sample_bits(logits, noise, top_k=900, top_p=top_p), expected.view(50, 8).bool())


def test_top_k_of_one_is_greedy_and_top_p_keeps_the_likelier_bit() -> None:
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [0.0, 9.0]]])
    noise = torch.tensor(
        [[[1e-6, 9.0], [9.0, 1e-6], [1e-6, 9.0]]]
    )  # for the bit that the logits speak against
    assert sample_bits(logits, noise, top_k=1, top_p=0.0).tolist() == [[True, False, True]]
    assert sample_bits(logits, noise, top_k=900, top_p=0.97).tolist() == [[False, True, True]]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(scales.RATIOS), st.integers(0, 100))
def test_rotations_keep_lengths_and_depend_on_distance_alone_along_an_axis(ratio: float, seed: int) -> None:
    schedule = scales.schedule(ratio, "0.06M")
    rotation = rotations(schedule, 32, torch.device("cpu"))
    x = torch.randn(1, 2, schedule.num_tokens, 32, generator=torch.Generator().manual_seed(seed))
    turned = rotate(x, rotation)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-4)
    first = turned[:, :, 0] - x[:, :, 0]
    assert np.abs(first.numpy()).max() == 0  # the first token of every grid sits at the origin
