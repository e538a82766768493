"""A Switti of tiny random weights, large enough that every branch changes the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from service.evaluation.random_weights import random_switti
from service.model.engine.generator import Generator
from service.model.schedule import Scale
from service.model.switti.backbone import Switti
from service.model.switti.config import SamplingConfig, SwittiConfig, TokenizerConfig, TransformerConfig
from service.model.switti.schedules import square_scales
from service.model.switti.text_encoders import TextFeatures
from service.model.switti.tokenizer import Tokenizer
from service.model.switti.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Networks:
    """A transformer of one variant, an image tokenizer, and the grids that they are run on."""

    transformer: Transformer
    tokenizer: Tokenizer
    grids: tuple[Scale, ...]


def tiny_config(*, is_causal: bool = False, **changes: object) -> SwittiConfig:
    settings = {
        "name": "tiny-switti",
        "transformer": TransformerConfig(
            depth=2, width=32, num_heads=2, is_causal=is_causal, text_channels=24, pooled_channels=16
        ),
        "tokenizer": TokenizerConfig(
            num_codes=50, code_channels=8, channels=8, multipliers=(1, 1, 2), num_blocks=1, num_groups=4
        ),
        "sampling": SamplingConfig(num_guided_steps=4, top_k=10),
        "grids": (1, 2, 3, 5, 6),
    }
    return SwittiConfig(**(settings | changes))  # type: ignore[arg-type]


def served_config(*, is_causal: bool = False, **changes: object) -> SwittiConfig:
    """Of the same size, steps and key step as the tiny Infinity: 64x64 in six."""
    config = tiny_config(
        transformer=TransformerConfig(
            depth=2, width=64, num_heads=2, is_causal=is_causal, text_channels=48, pooled_channels=32,
            max_text_tokens=64,
        ),
        tokenizer=TokenizerConfig(
            num_codes=300, code_channels=8, channels=8, multipliers=(1, 1, 2, 2), num_blocks=1, num_groups=4
        ),
        sampling=SamplingConfig(num_guided_steps=5, top_k=100),
        grids=(1, 2, 3, 4, 6, 8),
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


def tiny_switti(config: SwittiConfig | None = None, seed: int = 0) -> Switti:
    return random_switti(config or served_config(), seed)


def switti_generator(seed: int = 0, *, is_causal: bool = False) -> Generator:
    return Generator(tiny_switti(served_config(is_causal=is_causal), seed))


def tiny_networks(*, is_causal: bool = False, seed: int = 0) -> Networks:
    """Equal seeds give equal weights, in both variants."""
    config = tiny_config(is_causal=is_causal)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = Transformer(config.transformer, config.tokenizer, len(config.grids))
        tokenizer = Tokenizer(config.tokenizer)
        for parameter in transformer.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=1.0 / parameter.shape[-1] ** 0.5)
    for module in (transformer, tokenizer):
        module.requires_grad_(False).eval()
    return Networks(transformer, tokenizer, square_scales(config.grids))


def random_text(num_tokens: int, seed: int) -> TextFeatures:
    config, generator = tiny_config().transformer, torch.Generator().manual_seed(seed)
    return TextFeatures(
        torch.randn(num_tokens, config.text_channels, generator=generator),
        torch.randn(config.pooled_channels, generator=generator),
    )
