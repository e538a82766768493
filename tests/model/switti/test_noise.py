"""Philox 4x32-10: the published vectors, and the same numbers however they are asked for."""

from __future__ import annotations

import pytest
import torch

from service.model.switti import noise as noise_module
from service.model.switti.noise import StepNoise, exponential, key_of, philox

CPU = torch.device("cpu")
# tests/kat_vectors of Random123: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_words_are_the_published_ones(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    for scalars in (0, 1, 2, 3):  # words of the counter that are plain numbers, from the last
        given = [torch.tensor([word]) if index < 4 - scalars else word for index, word in enumerate(counter)]
        assert tuple(int(word) for word in philox(given, key)) == words


def test_words_of_a_whole_grid_are_those_of_each_place() -> None:
    blocks, tokens = torch.arange(5), torch.arange(3)
    together = philox((blocks, tokens[:, None], 9, 0), key_of(77))
    for block in range(5):
        for token in range(3):
            alone = philox((torch.tensor(block), torch.tensor(token), 9, 0), key_of(77))
            assert [int(word[token, block]) for word in together] == [int(word) for word in alone]


def test_a_seed_has_64_bits() -> None:
    assert key_of(2**32 - 1) == (0xFFFFFFFF, 0)
    assert key_of(3 << 32 | 5) == (5, 3)
    draws = [StepNoise((seed,), 1, CPU).of_all(2, 4) for seed in (5, 3 << 32 | 5)]
    assert not torch.equal(*draws)


def test_an_image_has_the_same_noise_alone_and_at_any_place_of_a_batch() -> None:
    alone = StepNoise((42,), 4, CPU).of_all(9, 50)
    for seeds in ((42, 7), (7, 42), (1, 2, 42, 3, 42)):
        together = StepNoise(seeds, 4, CPU).of_all(9, 50)
        for place, seed in enumerate(seeds):
            assert torch.equal(together[place], alone[0]) == (seed == 42)


def test_noise_of_some_codes_is_that_of_all_at_their_places() -> None:
    noise = StepNoise((3, 4, 3), 2, CPU)
    whole = noise.of_all(6, 50)
    codes = torch.stack([torch.randperm(50)[:11] for _ in range(18)]).view(3, 6, 11)
    assert torch.equal(noise.of(codes), whole.gather(-1, codes))


def test_more_codes_do_not_change_the_first_ones() -> None:
    noise = StepNoise((3,), 2, CPU)
    assert torch.equal(noise.of_all(4, 50)[..., :33], noise.of_all(4, 33))


def test_steps_tokens_and_seeds_have_noise_of_their_own() -> None:
    one = StepNoise((3,), 2, CPU).of_all(2, 400)[0]
    assert not torch.isclose(one[0], one[1]).all()
    for other in (StepNoise((3,), 3, CPU), StepNoise((4,), 2, CPU)):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.of_all(2, 400).flatten()]))[0, 1]) < 0.15


@pytest.mark.parametrize("chunk", [1, 13, 64])
def test_how_much_is_computed_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    noise, codes = StepNoise((8, 9), 5, CPU), torch.arange(40).view(2, 5, 4)
    whole, some = noise.of_all(5, 30), noise.of(codes)
    monkeypatch.setattr(noise_module, "_CHUNK_CPU", chunk)
    assert torch.equal(noise.of_all(5, 30), whole)
    assert torch.equal(noise.of(codes), some)


def test_noise_is_exponential_and_never_zero() -> None:
    edges = exponential(torch.tensor([0, 2**32 - 1, 2**31]))
    assert (edges > 0).all()
    assert edges.isfinite().all()
    drawn = StepNoise((1,), 1, CPU).of_all(64, 4096).double()
    assert drawn.mean() == pytest.approx(1.0, abs=0.01)
    assert drawn.var() == pytest.approx(1.0, abs=0.02)
    assert (drawn > 1).double().mean() == pytest.approx(0.36788, abs=0.005)
    assert drawn.min() > 0
