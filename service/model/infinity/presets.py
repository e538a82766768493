"""The released Infinity checkpoints, as data: their configurations and where their files come from.

Each names files of the models folder, laid out like upstream's `weights`.
"""

from __future__ import annotations

from dataclasses import replace

from service.model.checkpoints.family import KnownFile, Preset, Source
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


# The commit that added the 125M model, after the 2B model and its image tokenizer. For the 8B models, the
# head of `main` that added the last of them in 2025; only its first digits could be looked up. Sizes and
# checksums are those on the hub's pages, of `infinity_vae_d32reg` and `_d16` those of the copies of it.
INFINITY = Source(
    "FoundationVision/Infinity",
    "d4c15777e41bd36eb8eef5a854b018d19962b6d9",
    into="",
    known=(
        KnownFile(
            "infinity_2b_reg.pth", 8.82, "d5958b37e7ecb914230cd2b8c28aae0ec108ce08b315720bc3dc52596cc5b3a7"
        ),
        KnownFile("infinity_125M_256x256.pth", 0.501),
        KnownFile(
            "infinity_vae_d32reg.pth",
            1.56,
            "7a37fa3ea1b2a1ebd23de61d91a5e68202825e5a67edaef4b7c55f5fd5b9cf26",
        ),
        KnownFile(
            "infinity_vae_d16.pth", 1.56, "a8b866165f7efbc0ae15667c618bc78c6f37b5e71078a948b78d69ff2348d8a1"
        ),
        KnownFile(
            "infinity_vae_d56_f8_14_patchify.pth",
            1.22,
            "c4c695350125593dde7ec7120e6dff7039a9adea01516f6e14758eb94e3ec6c2",
        ),
        *(
            KnownFile(f"infinity_8b_weights/model-0000{shard}-of-00004.safetensors", 8.22)
            for shard in (1, 2, 3)
        ),
        KnownFile("infinity_8b_weights/model-00004-of-00004.safetensors", 8.83),
        *(
            KnownFile(f"infinity_8b_512x512_weights/model-0000{shard}-of-00008.safetensors", 4.11)
            for shard in range(1, 8)
        ),
        KnownFile("infinity_8b_512x512_weights/model-00008-of-00008.safetensors", 4.72),
    ),
)
_COMMIT_OF_8B = "e710892"
# The commit under which flan-t5-xl has been used with Infinity in public since 2024.
FLAN = Source(
    "google/flan-t5-xl",
    "7d6315df2c2fb742f0f5b556879d730926ca9001",
    into="flan-t5-xl",
    files=("config.json", "tokenizer.json"),
    weights=("",),
    holds=is_text_encoder,
    known=(KnownFile("model-00001-of-00002.safetensors", 9.45),),
)


def _sources(files: FilesConfig) -> tuple[Source, ...]:
    """Single files end in .pth; anything else is a folder of shards."""
    names = files.transformer, files.tokenizer
    single = tuple(name for name in names if name.endswith(".pth"))
    folders = tuple(name for name in names if not name.endswith(".pth"))
    revision = _COMMIT_OF_8B if folders else INFINITY.revision
    return replace(INFINITY, revision=revision, files=single, weights=folders), FLAN


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
    """The revision to fetch of each repository whose default the settings override."""
    chosen = {INFINITY.repository: infinity, FLAN.repository: flan_t5}
    return {repository: revision for repository, revision in chosen.items() if revision is not None}
