"""Models with random weights: the true shapes without the checkpoints, for speed and for tests."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer as WordTokenizer
from torch import nn
from transformers import T5Config, T5EncoderModel

from service.model.checkpoints import registry
from service.model.checkpoints.options import DecodingChoice
from service.model.device.precision import FULL, Precision, TextEncoderDevice
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import (
    InfinityConfig,
    SamplingConfig,
    TokenizerConfig,
    TransformerConfig,
)
from service.model.infinity.model_folder import read_config
from service.model.infinity.presets import RELEASED
from service.model.infinity.t5 import TextEncoder
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer
from service.model.nano.words import untrained_encoder, write_vocabulary

# Small enough for a CPU to draw a megapixel, large enough that arithmetic and not overhead decides.
BENCH_512 = InfinityConfig(
    name="bench-512",
    transformer=TransformerConfig(depth=8, width=512, num_heads=4, text_channels=128, max_text_tokens=64),
    tokenizer=TokenizerConfig(
        num_bits=32, stride=16, channels=8, multipliers=(1, 1, 2, 2, 2), num_blocks=1, num_groups=4
    ),
    sampling=SamplingConfig(guidance=3.0, temperature=0.5),
    budget="0.25M",
)

SHAPES = {config.name: config for config in (BENCH_512, *(released.config for released in RELEASED.values()))}


def shape_of(name_or_path: str) -> InfinityConfig:
    """The configuration of a shape by name, or of a model folder's config.json; its weights are not needed.

    ValueError with a sentence when there is none.
    """
    folder = registry.BUNDLED.get(name_or_path, Path(name_or_path))
    if name_or_path in SHAPES:
        return SHAPES[name_or_path]
    if not (folder / "config.json").is_file():
        known = ", ".join((*registry.BUNDLED, *SHAPES))
        raise ValueError(
            f"There is no shape {name_or_path!r}: give one of {known}, or a folder with config.json."
        )
    return read_config(folder / "config.json")


def random_infinity(
    config: InfinityConfig,
    seed: int = 0,
    device: torch.device = torch.device("cpu"),  # noqa: B008  a constant
    precision: Precision = FULL,
    decoding: DecodingChoice = "auto",
) -> Infinity:
    """Weights large enough that every branch changes the result; equal seeds give equal weights."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        transformer = Transformer(config.transformer, config.bits_per_token)
        tokenizer = Tokenizer(config.tokenizer)
        words, encoder = _text_encoder(config)
        _shake(transformer)
    tokenizer.hold_decoder_in(precision.blocks)
    transformer.hold_blocks_in(precision.blocks)
    text_home = device if precision.text_place is TextEncoderDevice.BESIDE else torch.device("cpu")
    text_encoder = TextEncoder(
        words,
        encoder.to(text_home, precision.text),  # type: ignore[arg-type]  # the library's own annotation
        device=device,
        is_fetched=precision.text_place is TextEncoderDevice.FETCHED,
    )
    return Infinity(
        config,
        transformer.requires_grad_(False).eval(),
        tokenizer.requires_grad_(False).eval(),
        text_encoder,
        fingerprint=f"{seed:016x}",
        decoding=decoding,
    )


def _text_encoder(config: InfinityConfig) -> tuple[WordTokenizer, T5EncoderModel]:
    """Of flan-t5-xl's shape for the released models, else a tiny one; the words are nano's either way."""
    with tempfile.TemporaryDirectory() as folder:
        num_words = write_vocabulary(Path(folder))
        words = WordTokenizer.from_file(f"{folder}/tokenizer.json")
    if config.name in RELEASED:
        return words, T5EncoderModel(
            T5Config(
                vocab_size=32_128, d_model=config.transformer.text_channels, d_kv=64, d_ff=5120,
                num_layers=24, num_heads=32, feed_forward_proj="gated-gelu", dropout_rate=0.0,
                pad_token_id=0, eos_token_id=1,
            )
        )  # fmt: skip
    return words, untrained_encoder(num_words, config.transformer.text_channels)


def _shake(transformer: Transformer) -> None:
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
    for block in transformer.blocks:
        nn.init.uniform_(block.attention.logit_scale, 0.5, 3.0)  # type: ignore[union-attr, arg-type]
