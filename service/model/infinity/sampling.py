"""Sampling bits from two-way logits (golden README, 1.8)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class NoiseStream:
    """The noise of every step of a batch, drawn in order on a thread of its own while the steps run.

    Each content path has a generator of its own, so that its image is the same in any batch.
    """

    def __init__(self, seeds: Sequence[int], num_bits_of_steps: Sequence[int], bits_per_token: int) -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def draw(num_bits: int) -> Tensor:
            noise = torch.stack([draw_noise(generator, num_bits) for generator in generators])
            return noise.view(len(seeds), -1, bits_per_token, 2)

        pool = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._steps: list[Future[Tensor]] = [pool.submit(draw, num_bits) for num_bits in num_bits_of_steps]
        pool.shutdown(wait=False)

    def at(self, step: int) -> Tensor:
        """The noise of a step, [content paths, tokens, bits of a token, 2], once it has been drawn."""
        return self._steps[step - 1].result()


def draw_noise(generator: torch.Generator, num_bits: int) -> Tensor:
    """Exponential noise [bits, 2] fp32, drawn on the CPU, so that no GPU changes it; torch's build may."""
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


def couple_bits(logits: Tensor, reference: Tensor, picture: Tensor, noise: Tensor) -> Tensor:
    """Bits [n, tokens, bits] bool that differ from a picture's no more often than their logits ask for.

    `reference` are the content path's logits, under which the uniform number of each bit is taken as known to
    have given the picture's bit; the same number then decides under `logits`. With P the probability of a 0,
    a 1 of the picture falls with probability (P - P_ref) / (1 - P_ref), a 0 rises with 1 - P / P_ref, and
    neither where the difference has the other sign. Top-p is left out: it cuts draws from the tails, and here
    an unlikely bit is the picture's own.
    """
    zero, zero_of_reference = (
        values.double().diff(dim=-1)[..., 0].neg().sigmoid() for values in (logits, reference)
    )
    first, second = noise.double().unbind(-1)
    uniform = first / (first + second)  # `sample_bits` gives a 1 where it is above P
    stays = (zero <= zero_of_reference) | (uniform * (1 - zero_of_reference) > zero - zero_of_reference)
    rises = (zero < zero_of_reference) & (uniform * zero_of_reference > zero)
    return torch.where(picture, stays, rises)
