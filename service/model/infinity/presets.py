"""The released Infinity checkpoints, as data: what they are, where they come from, what their files hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from service.model.checkpoints.loader import Naming, Shape, Weights
from service.model.device.precision import FULL, Precision, TextEncoderDevice
from service.model.infinity.config import (
    FilesConfig,
    InfinityConfig,
    SamplingConfig,
    TokenizerConfig,
    TransformerConfig,
)
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer
from service.model.infinity.weight_names import TOKENIZER_NAMING, transformer_naming

# Parameters of flan-t5-xl's encoder, words' table included.
_TEXT_PARAMETERS = 1_223_527_424
# Of them, those that an fp16 encoder keeps in fp32: the second matrix of each feed-forward.
_TEXT_KEPT_FP32 = 24 * 2048 * 5120


@dataclass(frozen=True, slots=True)
class Source:
    """Files of a repository on the hub, and the place in the models folder that they have."""

    repository: str
    revision: str  # a commit, or a branch where none is known
    into: str  # a folder of the models folder, "" for itself
    files: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()  # folders of weights, "" for the repository itself
    encoder_only: bool = False  # leave out the shards that hold nothing of the text encoder


@dataclass(frozen=True, slots=True)
class Released:
    """One preset. Its config names files of the models folder, laid out like upstream's `weights`."""

    config: InfinityConfig
    sources: tuple[Source, ...]

    def num_parameters(self) -> dict[str, int]:
        """By part: transformer, tokenizer, text encoder."""
        transformer, tokenizer = expected_shapes(self.config)
        return {
            "transformer": _count(transformer),
            "tokenizer": _count(tokenizer),
            "text encoder": _TEXT_PARAMETERS,
        }

    def resident_bytes(self, precision: Precision = FULL) -> int:
        """Memory of the weights on the transformer's device, between batches."""
        held = held_bytes(self.config, precision.blocks)
        if precision.text_place is not TextEncoderDevice.BESIDE:
            return held
        halves = _TEXT_PARAMETERS - (_TEXT_KEPT_FP32 if precision.text is torch.float16 else 0)
        return held + precision.text.itemsize * halves + 4 * (_TEXT_PARAMETERS - halves)


INFINITY = Source("FoundationVision/Infinity", "main", into="")
# The commit under which flan-t5-xl has been used with Infinity in public since 2024.
FLAN = Source(
    "google/flan-t5-xl",
    "7d6315df2c2fb742f0f5b556879d730926ca9001",
    into="flan-t5-xl",
    files=("config.json", "tokenizer.json"),
    weights=("",),
    encoder_only=True,
)


def _infinity(*files: str, weights: tuple[str, ...] = ()) -> tuple[Source, ...]:
    return replace(INFINITY, files=files, weights=weights), FLAN


def _stride_16(num_bits: int) -> TokenizerConfig:
    return TokenizerConfig(
        num_bits=num_bits, stride=16, channels=128, multipliers=(1, 2, 4, 4, 4), num_blocks=2
    )


_TEXT_CHANNELS = 2048
_PATCHIFIED = "infinity_vae_d56_f8_14_patchify.pth"
_EIGHT = InfinityConfig(
    name="infinity-8b",
    transformer=TransformerConfig(
        depth=40, width=3584, num_heads=28, text_channels=_TEXT_CHANNELS, num_chunks=8
    ),
    tokenizer=TokenizerConfig(num_bits=14, stride=8, channels=128, multipliers=(1, 2, 4, 4), num_blocks=2),
    sampling=SamplingConfig(guidance=3.0, temperature=1.0),
    budget="1M",
    patch=2,
    files=FilesConfig(transformer="infinity_8b_weights", tokenizer=_PATCHIFIED, text_encoder=FLAN.into),
)
_EVERY = (
    Released(
        InfinityConfig(
            name="infinity-2b",
            transformer=TransformerConfig(
                depth=32, width=2048, num_heads=16, text_channels=_TEXT_CHANNELS, num_chunks=8
            ),
            tokenizer=_stride_16(32),
            sampling=SamplingConfig(guidance=4.0, temperature=0.5),
            budget="1M",
            files=FilesConfig(
                transformer="infinity_2b_reg.pth",
                tokenizer="infinity_vae_d32reg.pth",
                text_encoder=FLAN.into,
            ),
        ),
        _infinity("infinity_2b_reg.pth", "infinity_vae_d32reg.pth"),
    ),
    Released(_EIGHT, _infinity(_PATCHIFIED, weights=("infinity_8b_weights",))),
    Released(
        replace(
            _EIGHT,
            name="infinity-8b-512",
            budget="0.25M",
            files=replace(_EIGHT.files, transformer="infinity_8b_512x512_weights"),
        ),
        _infinity(_PATCHIFIED, weights=("infinity_8b_512x512_weights",)),
    ),
    Released(
        InfinityConfig(
            name="infinity-125m",
            transformer=TransformerConfig(
                depth=12, width=768, num_heads=8, text_channels=_TEXT_CHANNELS, num_chunks=4
            ),
            tokenizer=_stride_16(16),
            # Upstream names no values for it: those of the 2B model.
            sampling=SamplingConfig(guidance=4.0, temperature=0.5),
            budget="0.06M",
            files=FilesConfig(
                transformer="infinity_125M_256x256.pth",
                tokenizer="infinity_vae_d16.pth",
                text_encoder=FLAN.into,
            ),
        ),
        _infinity("infinity_125M_256x256.pth", "infinity_vae_d16.pth"),
    ),
)
RELEASED: dict[str, Released] = {each.config.name: each for each in _EVERY}


def expected_shapes(config: InfinityConfig) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Our names and shapes of the transformer and of the image tokenizer; takes no memory."""
    transformer, tokenizer = (
        {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        for module in _modules(config)
    )
    return transformer, tokenizer


def held_bytes(config: InfinityConfig, blocks: torch.dtype) -> int:
    """Memory of the transformer and the image tokenizer, with blocks and image decoder in this dtype."""
    transformer, tokenizer = _modules(config)
    transformer.hold_blocks_in(blocks)
    tokenizer.hold_decoder_in(blocks)
    return sum(parameter.nbytes for part in (transformer, tokenizer) for parameter in part.parameters())


def _modules(config: InfinityConfig) -> tuple[Transformer, Tokenizer]:
    with torch.device("meta"):
        return Transformer(config.transformer, config.bits_per_token), Tokenizer(config.tokenizer)


def recognise(weights: Weights) -> str:
    """A sentence on which released file this may be, by its names and shapes; empty if it is none of them."""
    if any(name.startswith("encoder.block.") for name in weights.stored):
        return " It looks like a T5 text encoder."
    found = []
    for name, released in RELEASED.items():
        transformer, tokenizer = expected_shapes(released.config)
        if _shapes(weights, transformer_naming(released.config.transformer.blocks_per_chunk)) == transformer:
            found.append(f"the transformer of {name}")
        if _shapes(weights, TOKENIZER_NAMING) == tokenizer:
            found.append(f"the image tokenizer of {name}")
    return f" It looks like {' or '.join(found)}." if found else ""


def _shapes(weights: Weights, naming: Naming) -> dict[str, Shape]:
    stored = weights.stored
    return {own: stored[name].shape for own, name in naming.ours({name: name for name in stored}).items()}


def _count(shapes: dict[str, Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
