"""The real Generator on tiny random weights: every code path of the real models, in milliseconds."""

from __future__ import annotations

import torch

from service.evaluation.random_weights import random_infinity
from service.model.engine.generator import Generator
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import (
    InfinityConfig,
    SamplingConfig,
    StyleConfig,
    TokenizerConfig,
    TransformerConfig,
)

SQUARE = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8))
WIDE = ((1, 1), (2, 2), (2, 3), (3, 5), (6, 9), (8, 12))


def tiny_config(**changes: object) -> InfinityConfig:
    settings = {
        "name": "tiny",
        "transformer": TransformerConfig(
            depth=3, width=64, num_heads=2, text_channels=128, max_text_tokens=64, max_scales=8
        ),
        "tokenizer": TokenizerConfig(
            num_bits=8, stride=8, channels=8, multipliers=(1, 1, 2, 2), num_blocks=1, num_groups=4
        ),
        "sampling": SamplingConfig(guidance=3.0, temperature=0.5),
        "style": StyleConfig(key_step=3, alpha=1.0),
        "grids": (SQUARE, WIDE),
    }
    return InfinityConfig(**(settings | changes))  # type: ignore[arg-type]


def tiny_infinity(config: InfinityConfig | None = None, seed: int = 0, device: str = "cpu") -> Infinity:
    """Random weights, large enough that every branch changes the result; equal seeds give equal weights."""
    return random_infinity(config or tiny_config(), seed, torch.device(device))


def tiny_generator(seed: int = 0) -> Generator:
    """Sizes 64x64 and 96x64; a styled image takes some tens of milliseconds."""
    return Generator(tiny_infinity(seed=seed))
