"""Sampling noise from a counter: Philox 4x32-10 (Salmon et al., 2011), vectorised in torch.

The number for a seed, step, token and code is a function of these alone. So an image has the same noise
alone, in any batch and at any place in it, no state is kept between steps, and only the numbers that a draw
looks at are computed. The words are the same on every device, and so is what is made of them: the logarithm
is taken in fp64 and rounded to fp32, which hides the last bits in which devices differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_NUM_ROUNDS = 10
_WORD = 0xFFFFFFFF
_WORDS = 4  # in a block: neighbouring codes share one
# Blocks computed at once on a CPU: half a megabyte of each of the words, which a cache holds. A GPU takes all
# that its memory allows.
_CHUNK_CPU, _CHUNK_GPU = 2**16, 2**23


class Noise(Protocol):
    """Exponential noise of one step, for each image, token and code."""

    def of_all(self, num_tokens: int, num_codes: int) -> Tensor:
        """Of every code: [images, tokens, codes] fp32."""

    def of(self, codes: Tensor) -> Tensor:
        """Of the codes at [images, tokens, n] int64, in this shape, fp32."""


@dataclass(frozen=True, slots=True)
class StepNoise:
    """The noise of one step for images of these seeds, computed when it is asked for.

    Seeds are below 2^64; two images of one seed have the same noise, as the two paths of a job must.
    """

    seeds: tuple[int, ...]
    step: int
    device: torch.device

    def of_all(self, num_tokens: int, num_codes: int) -> Tensor:
        blocks = torch.arange(-(-num_codes // _WORDS), device=self.device)
        tokens = torch.arange(num_tokens, device=self.device)
        different = list(dict.fromkeys(self.seeds))
        drawn = torch.empty(len(different), num_tokens, num_codes, device=self.device)
        for out, seed in zip(drawn, different, strict=True):
            for part in tokens.split(self._tokens_at_once(len(blocks))):
                words = philox((blocks, part[:, None], self.step, 0), key_of(seed))
                out[part] = exponential(torch.stack(words, -1).flatten(-2)[:, :num_codes])
        if len(different) == len(self.seeds):
            return drawn
        return torch.stack([drawn[different.index(seed)] for seed in self.seeds])

    def of(self, codes: Tensor) -> Tensor:
        num_tokens, num_each = codes.shape[1:]
        tokens = torch.arange(num_tokens, device=self.device)
        drawn = torch.empty(codes.shape, device=self.device)
        for out, seed, image in zip(drawn, self.seeds, codes, strict=True):
            for part in tokens.split(self._tokens_at_once(num_each)):
                chosen = image[part]
                words = philox((chosen // _WORDS, part[:, None], self.step, 0), key_of(seed))
                lanes = torch.stack(words, -1)
                out[part] = exponential(lanes.gather(-1, (chosen % _WORDS)[..., None])[..., 0])
        return drawn

    def _tokens_at_once(self, num_blocks: int) -> int:
        chunk = _CHUNK_CPU if self.device.type == "cpu" else _CHUNK_GPU
        return max(1, chunk // num_blocks)


def key_of(seed: int) -> tuple[int, int]:
    """The two words of a seed, low first."""
    return seed & _WORD, seed >> 32 & _WORD


def philox(counter: Sequence[Tensor | int], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four random words of 32 bits, as int64, from a counter of four and a key of two.

    The words of the counter are int64 tensors below 2^32 that broadcast with one another, at least the first
    of them, or numbers.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        # Products of tensors wrap around in 64 bits; the bits of both halves are right all the same.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (second >> 32 & _WORD) ^ c1 ^ k0, (first >> 32 & _WORD) ^ c3 ^ k1
        c1, c3 = second & _WORD, first & _WORD
        k0, k1 = k0 + _KEY_STEPS[0] & _WORD, k1 + _KEY_STEPS[1] & _WORD
    return torch.broadcast_tensors(c0, c1, c2, c3)


def exponential(words: Tensor) -> Tensor:
    """Words of 32 bits -> exponential noise fp32, of a uniform number that is neither 0 nor 1."""
    uniform = (words.double() + 0.5) * 2.0**-32
    return uniform.log_().neg_().float()
