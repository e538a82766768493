"""The released Switti checkpoints, as data: their configurations and where their files come from.

Guidance, top-k, top-p, the start of smoothing and the last temperature are those of the released README. So
is the end of guidance at 512 x 512: off from scale index 8 of 10. At 1024 x 1024 it is off from index 11 of
14, as in public uses of those models.
"""

from __future__ import annotations

from service.model.checkpoints.family import KnownFile, Preset, Source
from service.model.switti.config import (
    FilesConfig,
    SamplingConfig,
    SwittiConfig,
    TokenizerConfig,
    TransformerConfig,
)
from service.model.switti.schedules import GRIDS_512, GRIDS_1024
from service.model.switti.weight_names import is_clip_text

# Of the commits of these repositories only the first digits could be looked up, on the hub's pages; the first
# fetch finds the whole and writes it down.
_COMMITS = {
    "yresearch/Switti": "fd80f3a",
    "yresearch/Switti-AR": "99809f7",
    "yresearch/Switti-1024": "9a2f299",
    "yresearch/Switti-1024-AR": "e34499b",
    "yresearch/VQVAE-Switti": "354c67e",
}
_TRANSFORMERS = {
    "yresearch/Switti": KnownFile(
        "model.safetensors", 9.9, "bf2708bad588c86091388feeab49df41b3a9c64dcecdb111e0e2fc1fe18c3d14"
    ),
    "yresearch/Switti-AR": KnownFile("model.safetensors", 9.9),
    "yresearch/Switti-1024": KnownFile("model.safetensors", 10.2),
    "yresearch/Switti-1024-AR": KnownFile("model.safetensors", 10.2),
}
TOKENIZER_SOURCE = Source(
    "yresearch/VQVAE-Switti",
    _COMMITS["yresearch/VQVAE-Switti"],
    into="yresearch/VQVAE-Switti",
    weights=("",),
    known=(KnownFile("model.safetensors", 0.436),),
)
# The commits under which the two have been used in public since 2023. Both read words by the first's table.
CLIP = Source(
    "openai/clip-vit-large-patch14",
    "32bd64288804d66eefd0ccbe215aa642df71cc41",
    into="clip-vit-large-patch14",
    files=("config.json", "tokenizer.json"),
    weights=("",),
    holds=is_clip_text,
)
POOLED_CLIP = Source(
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "bc7788f151930d91b58474715fdce5524ad9a189",
    into="clip-vit-bigg-14",
    files=("config.json",),
    weights=("",),
    holds=is_clip_text,
)
# Parameters of the two text encoders without projections and vision towers.
TEXT_PARAMETERS = 123_060_480
POOLED_TEXT_PARAMETERS = 693_021_440

TOKENIZER = TokenizerConfig(
    num_codes=4096, code_channels=32, channels=160, multipliers=(1, 1, 2, 2, 4), num_blocks=2
)


def _preset(
    name: str, repository: str, grids: tuple[int, ...], *, is_causal: bool, num_guided: int
) -> Preset[SwittiConfig]:
    config = SwittiConfig(
        name=name,
        transformer=TransformerConfig(depth=30, width=1920, num_heads=30, is_causal=is_causal),
        tokenizer=TOKENIZER,
        sampling=SamplingConfig(num_guided_steps=num_guided),
        grids=grids,
        files=FilesConfig(
            transformer=repository,
            tokenizer=TOKENIZER_SOURCE.into,
            text_encoder=CLIP.into,
            pooled_text_encoder=POOLED_CLIP.into,
        ),
    )
    # Not in a folder of the preset's name: that is where `convert` writes.
    transformer = Source(
        repository, _COMMITS[repository], into=repository, weights=("",), known=(_TRANSFORMERS[repository],)
    )
    return Preset(config, (transformer, TOKENIZER_SOURCE, CLIP, POOLED_CLIP))


_ALL = (
    _preset("switti-512", "yresearch/Switti", GRIDS_512, is_causal=False, num_guided=8),
    _preset("switti-512-ar", "yresearch/Switti-AR", GRIDS_512, is_causal=True, num_guided=8),
    _preset("switti-1024", "yresearch/Switti-1024", GRIDS_1024, is_causal=False, num_guided=11),
    _preset("switti-1024-ar", "yresearch/Switti-1024-AR", GRIDS_1024, is_causal=True, num_guided=11),
)
PRESETS: dict[str, Preset[SwittiConfig]] = {preset.config.name: preset for preset in _ALL}
