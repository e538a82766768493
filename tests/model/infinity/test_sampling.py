"""The noise of a batch: each image from its own seed, whoever is beside it, and errors where it is needed."""

from __future__ import annotations

import pytest
import torch

from service.model.infinity.sampling import NoiseStream


def test_the_noise_of_an_image_depends_on_its_seed_alone() -> None:
    together = NoiseStream([3, 4], [8, 32], bits_per_token=8)
    alone = NoiseStream([4], [8, 32], bits_per_token=8)
    for step, num_tokens in ((1, 1), (2, 4)):
        assert together.at(step).shape == (2, num_tokens, 8, 2)
        assert torch.equal(together.at(step)[1], alone.at(step)[0])
        assert not torch.equal(together.at(step)[0], together.at(step)[1])


def test_steps_are_drawn_in_order_whichever_is_asked_for_first() -> None:
    backwards, forwards = NoiseStream([7], [8, 16], 8), NoiseStream([7], [8, 16], 8)
    second = backwards.at(2)
    assert torch.equal(forwards.at(1), backwards.at(1))
    assert torch.equal(forwards.at(2), second)


def test_a_failure_is_raised_where_the_noise_is_needed() -> None:
    noise = NoiseStream([1], [8, 9], bits_per_token=8)
    assert noise.at(1).shape == (1, 1, 8, 2)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        noise.at(2)
