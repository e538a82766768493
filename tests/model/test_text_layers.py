"""Lengths to which texts are padded."""

from __future__ import annotations

from service.model.text_layers import padded_length


def test_texts_are_padded_to_few_lengths_and_by_at_most_a_third() -> None:
    lengths = [padded_length(num_tokens) for num_tokens in range(1, 513)]
    assert sorted(set(lengths)) == [16, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    beyond = zip(range(17, 513), lengths[16:], strict=True)
    assert all(length - (num_tokens + -num_tokens % 16) <= length / 3 for num_tokens, length in beyond)
    assert (padded_length(513), padded_length(1000)) == (528, 1008)
