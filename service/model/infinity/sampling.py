"""Drawing bits from two-way logits (golden README, 1.8)."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_noise(generator: torch.Generator, num_bits: int) -> Tensor:
    """Exponential noise [bits, 2] fp32, drawn on the CPU so that a seed means the same on every device."""
    return torch.empty(num_bits, 2).exponential_(generator=generator)


def sample_bits(logits: Tensor, noise: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Bits [..., tokens, bits] bool from logits and noise [..., tokens, bits, 2].

    A draw is argmax(p / q) with exponential q, which is how torch's multinomial draws one sample. On two
    choices top-k acts only at 1, where it is greedy; top-p removes the less likely bit when its probability
    is at most 1 - top_p. 0 turns either off.
    """
    if top_k == 1:
        return logits[..., 1] > logits[..., 0]
    p = logits.softmax(-1)
    if top_p > 0:
        less_likely = p < p.flip(-1)
        p = p.masked_fill(less_likely & (p <= 1 - top_p), 0.0)
    ratio = p / noise
    return ratio[..., 1] > ratio[..., 0]
