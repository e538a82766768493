"""The noise of a batch: each image from its own seed, whoever is beside it, and errors where it is needed.
And the guidance of the steps."""

from __future__ import annotations

import pytest
import torch

from service.model.infinity.config import SamplingConfig
from service.model.infinity.sampling import NoiseStream
from tests.support.tiny import tiny_config, tiny_infinity


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


def test_guidance_is_the_same_at_all_steps_unless_the_configuration_has_less_for_the_fine_ones() -> None:
    assert tiny_infinity().guidance_of_steps(4.7, 6) == (4.7,) * 6
    sampling = SamplingConfig(guidance=6.0, temperature=0.5, fine_guidance=0.2)
    model = tiny_infinity(tiny_config(sampling=sampling))  # its key step is the third
    assert model.guidance_of_steps(6.0, 5) == (6.0, 6.0, 6.0, 2.0, 2.0)
    assert model.guidance_of_steps(1.0, 5) == (1.0,) * 5, "1 is no guidance, at no step"
    assert model.guidance_of_steps(0.0, 4) == pytest.approx((0.0, 0.0, 0.0, 0.8))
