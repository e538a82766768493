"""The real Generator on tiny random weights: every code path of the real models, in milliseconds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer as WordTokenizer
from torch import nn

from service.model.generator import Generator
from service.model.infinity.config import (
    InfinityConfig,
    SamplingConfig,
    StyleConfig,
    TokenizerConfig,
    TransformerConfig,
)
from service.model.infinity.model import Infinity
from service.model.infinity.text import TextEncoder
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer
from service.model.nano.words import untrained_encoder, write_vocabulary

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
    config = config or tiny_config()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = Transformer(config.transformer, config.bits_per_token)
        tokenizer = Tokenizer(config.tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            num_words = write_vocabulary(Path(folder))
            words = WordTokenizer.from_file(f"{folder}/tokenizer.json")
        encoder = untrained_encoder(num_words, config.transformer.text_channels)
        _shake(transformer)
    return Infinity(
        config,
        transformer.to(device).requires_grad_(False).eval(),
        tokenizer.to(device).requires_grad_(False).eval(),
        TextEncoder(words, encoder.to(device)),  # type: ignore[arg-type]  # the library's annotation is wrong
        fingerprint=f"{seed:016x}",
    )


def tiny_generator(seed: int = 0) -> Generator:
    """Sizes 64x64 and 96x64; a styled image takes some tens of milliseconds."""
    return Generator(tiny_infinity(seed=seed))


def _shake(transformer: Transformer) -> None:
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    for block in transformer.blocks:
        nn.init.uniform_(block.attention.logit_scale, 0.5, 3.0)  # type: ignore[union-attr, arg-type]
