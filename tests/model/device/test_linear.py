"""Row-independent linear layers, sampling, and rotary positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from service.model.device.linear import choose_row_tile, linear, row_tile, use_row_tile
from service.model.infinity import schedules as scales
from service.model.infinity.rope import rotations
from service.model.infinity.sampling import draw_noise, sample_bits
from service.model.layers import rotate
from service.model.shared_attention import attend
from tests.support.tiny import tiny_infinity


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(0, 40),
    st.sampled_from([(192, 576), (64, 48), (768, 192)]),
    st.booleans(),
    st.booleans(),
)
def test_a_row_rounds_the_same_whoever_is_beside_it(
    rows: int, offset: int, shape: tuple[int, int], learns: bool, gelu: bool
) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight, bias = (
        torch.randn(shape[1], shape[0], generator=generator),
        torch.randn(shape[1], generator=generator),
    )
    x = torch.randn(130, shape[0], generator=generator)
    assert use_row_tile([weight]).holds
    with torch.set_grad_enabled(learns):  # the faster kernel has no gradient
        whole = linear(x, weight, bias, gelu=gelu)
        part = linear(x[offset : offset + rows], weight, bias, gelu=gelu)
    assert torch.equal(part, whole[offset : offset + rows])
    expected = F.linear(x, weight, bias)
    assert torch.allclose(whole, F.gelu(expected, approximate="tanh") if gelu else expected, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize(("tokens", "known"), [(1, 1), (16, 30), (300, 500)], ids=["one", "few", "many"])
def test_rows_that_follow_one_attend_as_if_each_had_its_queries_and_keys(tokens: int, known: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    queries = torch.randn(3, tokens, 4, 32, generator=generator)
    # Longer than what is known: the place of steps to come must not be read.
    keys, values = (torch.randn(n, 4, known + 7, 32, generator=generator)[:, :, :known] for n in (3, 6))
    sources = (0, 1, 2, 0, 0, 1)
    shared = attend(queries, keys, values, sources)
    expected = F.scaled_dot_product_attention(
        queries[[*sources]].transpose(1, 2), keys[[*sources]], values, scale=1.0
    )
    assert torch.allclose(shared, expected.transpose(1, 2).flatten(2), atol=1e-5)
    company = [0, 1, 3, 5]  # in another batch: the same to the bit
    assert torch.equal(attend(queries[:2], keys[:2], values[company], (0, 1, 0, 1)), shared[company])


@torch.inference_mode()
@pytest.mark.parametrize("num_tokens", [1, 5, 31, 32, 40])
def test_a_text_that_holds_the_projections_reads_as_the_two_projections_do(num_tokens: int) -> None:
    attention = tiny_infinity().transformer.blocks[0].text_attention
    generator = torch.Generator().manual_seed(num_tokens)
    text, x = (torch.randn(*shape, 64, generator=generator) for shape in ((num_tokens,), (2, 20)))
    keys, values = attention.keys_values(text[None])  # type: ignore[operator, union-attr]
    expected = attention(x, keys, values)  # type: ignore[operator]
    assert torch.allclose(attention.reader(text)(x), expected, atol=1e-4)  # type: ignore[operator, union-attr]


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


def same_rows(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (x[:, None] * weight).sum(-1)


@pytest.mark.parametrize(
    ("fails_at", "tile"),
    [
        (lambda num_rows: False, 8),
        (lambda num_rows: num_rows == 8, 16),  # MKL on an Intel Xeon with AVX-512
        (lambda num_rows: num_rows % 64 != 0, 64),
        (lambda num_rows: True, None),  # a sum that is split by the number of rows
    ],
    ids=["8 holds", "only 16 holds", "only 64 holds", "none holds"],
)
def test_the_row_tile_is_the_smallest_that_holds_on_this_cpu(
    fails_at: Callable[[int], bool], tile: int | None
) -> None:
    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return same_rows(x, weight) + (len(x) * 1e-3 if fails_at(len(x)) else 0)

    weights = [torch.ones(6, 24), torch.ones(4, 8, dtype=torch.bfloat16), torch.ones(6, 24)]
    assert choose_row_tile(weights, product) == tile


def test_one_matrix_for_which_no_tile_holds_is_enough_for_none() -> None:
    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return same_rows(x, weight) + (len(x) * 1e-3 if weight.shape[1] == 512 else 0)

    assert choose_row_tile([torch.ones(4, 64), torch.ones(4, 512)], product) is None


def test_the_tile_in_use_holds_and_only_grows() -> None:
    before = row_tile()
    after = use_row_tile([torch.randn(48, 64)])
    assert after == row_tile()
    assert after.holds
    assert not before.holds or after.num_rows >= before.num_rows
