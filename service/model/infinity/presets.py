"""The released Infinity checkpoints, as data: their configurations and where their files come from.

Each names files of the models folder, laid out like upstream's `weights`.
"""

from __future__ import annotations

from dataclasses import replace

from service.model.checkpoints.family import Preset, Source
from service.model.infinity.config import (
    FilesConfig,
    InfinityConfig,
    SamplingConfig,
    TokenizerConfig,
    TransformerConfig,
)
from service.model.infinity.weight_names import is_text_encoder

# Parameters of flan-t5-xl's encoder, its word embeddings included.
NUM_TEXT_PARAMETERS = 1_223_527_424
# Of them, those that an fp16 encoder keeps in fp32: the second matrix of each feed-forward.
NUM_TEXT_PARAMETERS_IN_FP32 = 24 * 2048 * 5120


INFINITY = Source("FoundationVision/Infinity", "main", into="")
# The commit under which flan-t5-xl has been used with Infinity in public since 2024.
FLAN = Source(
    "google/flan-t5-xl",
    "7d6315df2c2fb742f0f5b556879d730926ca9001",
    into="flan-t5-xl",
    files=("config.json", "tokenizer.json"),
    weights=("",),
    holds=is_text_encoder,
)


def _sources(files: FilesConfig) -> tuple[Source, ...]:
    """Single files end in .pth; anything else is a folder of shards."""
    names = files.transformer, files.tokenizer
    single = tuple(name for name in names if name.endswith(".pth"))
    folders = tuple(name for name in names if not name.endswith(".pth"))
    return replace(INFINITY, files=single, weights=folders), FLAN


_TWO = InfinityConfig(
    name="infinity-2b",
    transformer=TransformerConfig(depth=32, width=2048, num_heads=16, text_channels=2048, num_chunks=8),
    tokenizer=TokenizerConfig(
        num_bits=32, stride=16, channels=128, multipliers=(1, 2, 4, 4, 4), num_blocks=2
    ),
    sampling=SamplingConfig(guidance=4.0, temperature=0.5),
    budget="1M",
    files=FilesConfig(
        transformer="infinity_2b_reg.pth", tokenizer="infinity_vae_d32reg.pth", text_encoder=FLAN.into
    ),
)
_EIGHT = InfinityConfig(
    name="infinity-8b",
    transformer=TransformerConfig(depth=40, width=3584, num_heads=28, text_channels=2048, num_chunks=8),
    tokenizer=TokenizerConfig(num_bits=14, stride=8, channels=128, multipliers=(1, 2, 4, 4), num_blocks=2),
    sampling=SamplingConfig(guidance=3.0, temperature=1.0),
    budget="1M",
    patch=2,
    files=FilesConfig(
        transformer="infinity_8b_weights",
        tokenizer="infinity_vae_d56_f8_14_patchify.pth",
        text_encoder=FLAN.into,
    ),
)
_EIGHT_AT_512 = replace(
    _EIGHT,
    name="infinity-8b-512",
    budget="0.25M",
    files=replace(_EIGHT.files, transformer="infinity_8b_512x512_weights"),
)
# Upstream names no sampling values for it: those of the 2B model.
_SMALL = replace(
    _TWO,
    name="infinity-125m",
    transformer=replace(_TWO.transformer, depth=12, width=768, num_heads=8, num_chunks=4),
    tokenizer=replace(_TWO.tokenizer, num_bits=16),
    budget="0.06M",
    files=replace(_TWO.files, transformer="infinity_125M_256x256.pth", tokenizer="infinity_vae_d16.pth"),
)
RELEASED = {
    config.name: Preset(config, _sources(config.files)) for config in (_TWO, _EIGHT, _EIGHT_AT_512, _SMALL)
}


def chosen_revisions(*, infinity: str | None, flan_t5: str | None) -> dict[str, str]:
    """The revision to fetch of each repository whose default is overridden."""
    chosen = {INFINITY.repository: infinity, FLAN.repository: flan_t5}
    return {repository: revision for repository, revision in chosen.items() if revision is not None}
