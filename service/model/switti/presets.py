"""The released Switti checkpoints, as data: what they are and where they come from.

Guidance, top-k, top-p, the start of smoothing and the last temperature are those of the released README. So
is the end of guidance at 512 x 512: off from scale index 8 of 10. At 1024 x 1024 it is off from index 11 of
14, as in public uses of those models.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.model.switti.config import (
    FilesConfig,
    SamplingConfig,
    SwittiConfig,
    TokenizerConfig,
    TransformerConfig,
)
from service.model.switti.schedules import GRIDS_512, GRIDS_1024

# Repositories on the hub, shared by all presets.
TOKENIZER_REPOSITORY = "yresearch/VQVAE-Switti"
TEXT_REPOSITORY = "openai/clip-vit-large-patch14"
POOLED_TEXT_REPOSITORY = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
# Parameters of the two text encoders without projections and vision towers.
TEXT_PARAMETERS = 123_060_480
POOLED_TEXT_PARAMETERS = 693_021_440

TOKENIZER = TokenizerConfig(
    num_codes=4096, code_channels=32, channels=160, multipliers=(1, 1, 2, 2, 4), num_blocks=2
)


@dataclass(frozen=True, slots=True)
class Preset:
    """A released Switti: its configuration, and the repository of its transformer."""

    config: SwittiConfig
    repository: str


def _preset(
    name: str, repository: str, grids: tuple[int, ...], *, is_causal: bool, num_guided: int
) -> Preset:
    config = SwittiConfig(
        name=name,
        transformer=TransformerConfig(depth=30, width=1920, num_heads=30, is_causal=is_causal),
        tokenizer=TOKENIZER,
        sampling=SamplingConfig(num_guided_steps=num_guided),
        grids=grids,
        files=FilesConfig(
            transformer=name,
            tokenizer="vqvae-switti",
            text_encoder="clip-vit-large-patch14",
            pooled_text_encoder="clip-vit-bigg-14",
        ),
    )
    return Preset(config, repository)


_ALL = (
    _preset("switti-512", "yresearch/Switti", GRIDS_512, is_causal=False, num_guided=8),
    _preset("switti-512-ar", "yresearch/Switti-AR", GRIDS_512, is_causal=True, num_guided=8),
    _preset("switti-1024", "yresearch/Switti-1024", GRIDS_1024, is_causal=False, num_guided=11),
    _preset("switti-1024-ar", "yresearch/Switti-1024-AR", GRIDS_1024, is_causal=True, num_guided=11),
)
PRESETS: dict[str, Preset] = {preset.config.name: preset for preset in _ALL}
