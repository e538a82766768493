"""The recipe of nano: one frozen set of numbers, from which a run from nothing gives the shipped weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.model.engine.quality import Qualities, Shortcuts
from service.model.infinity.config import (
    InfinityConfig,
    SamplingConfig,
    StyleConfig,
    TokenizerConfig,
    TransformerConfig,
    VocabularyConfig,
)
from service.training.captions import FILLERS, draws
from service.training.scene import COLOURS, MEDIA, OBJECTS, POSES

WEIGHTS = Path(__file__).parents[1] / "model" / "nano" / "weights"
CONFIG = InfinityConfig(
    name="nano",
    transformer=TransformerConfig(
        depth=6,
        width=256,
        num_heads=4,
        text_channels=128,
        max_text_tokens=64,
        max_scales=8,
        num_positions=103,
    ),
    # One group: with so few channels, more groups would normalise the very contrast between them away.
    tokenizer=TokenizerConfig(
        num_bits=32, stride=8, channels=16, multipliers=(1, 2, 4, 8), num_blocks=1, num_groups=1
    ),
    # With guidance 4 at all steps fewer images had their style's background and medium.
    sampling=SamplingConfig(guidance=6.0, temperature=0.5, fine_guidance=0.2),
    # F_3 of an 8x8 latent is 3x3: background and medium are in it, and hardly a shape. At step 4, 5x5, half
    # of the prompts' things were lost. Smaller alphas keep fewer things, larger ones lose background. This
    # and guidance were chosen on style images that no report uses.
    style=StyleConfig(key_step=3, alpha=0.03),
    quality=Qualities(medium=Shortcuts(guidance_until=4), low=Shortcuts(guidance_until=2)),
    grids=(((1, 1), (2, 2), (3, 3), (5, 5), (8, 8)),),
    vocabulary=VocabularyConfig(
        draws=draws(OBJECTS), things=OBJECTS, colours=COLOURS, media=MEDIA, poses=POSES, fillers=FILLERS
    ),
)
(SCHEDULE,) = CONFIG.schedules().values()  # nano has one size
GRIDS = SCHEDULE.scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Sizes, rates and minutes of a training. `seed` decides renders, captions, order and initial weights."""

    seed: int = 20261123
    minutes: float = 115.0  # of the three trainings together; their rates follow the share that has passed
    adam_rate: float = 2e-3  # of all that Muon does not train
    num_images: int = 64_000
    num_outside: int = 6_000  # pictures from outside the renderer's world, for the image tokenizer alone

    tokenizer_share: float = 0.14  # of the minutes
    tokenizer_batch: int = 32
    outside_share: float = 0.125  # of a tokenizer's batch
    convolution_rate: float = 0.03
    tokenizer_flat_share: float = 0.4  # of a training's minutes, before the rates fall linearly

    decoder_share: float = 0.0165  # of the minutes: on quantised features, with the bits held fixed
    decoder_rates: float = 0.3  # of the tokenizer's

    transformer_batch: int = 64
    transformer_flat_share: float = 0.62
    sampled_share: float = 0.88  # of the minutes, in which a step has only so many tokens of the last scale
    sampled_tokens: int = 16
    matrix_rate: float = 0.02
    embedding_rate: float = 3e-3  # of words, which each see few captions
    dropped_text: float = 0.1  # for classifier-free guidance
    max_flips: float = 0.15  # bitwise self-correction (Infinity, section 3.4): share of bits flipped a scale

    tokenizer_average: float = 0.995  # decay of the exponential moving average that is shipped
    transformer_average: float = 0.99
    sheet_minutes: float = 10.0

    @property
    def tokenizer_minutes(self) -> float:
        return self.minutes * self.tokenizer_share

    @property
    def decoder_minutes(self) -> float:
        return self.minutes * self.decoder_share

    @property
    def transformer_minutes(self) -> float:
        return self.minutes - self.tokenizer_minutes - self.decoder_minutes
