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
from service.training.captions import DRAWS, FILLERS
from service.training.scene import COLOURS, MEDIA, OBJECTS

WEIGHTS = Path(__file__).parents[1] / "model" / "nano" / "weights"
CONFIG = InfinityConfig(
    name="nano",
    transformer=TransformerConfig(
        depth=6, width=192, num_heads=6, text_channels=128, max_text_tokens=64, max_scales=8
    ),
    # One group: with so few channels, more groups would normalise the very contrast between them away.
    tokenizer=TokenizerConfig(
        num_bits=24, stride=8, channels=16, multipliers=(1, 2, 4, 6), num_blocks=1, num_groups=1
    ),
    sampling=SamplingConfig(guidance=8.0, temperature=0.5),
    # F_3 of an 8x8 latent is 3x3 and holds a background, little of a medium. F_5 is 6x6 and holds a medium,
    # and shapes too, so that alpha must not be much smaller. Chosen on pairs that no report uses (seed 100).
    style=StyleConfig(key_step=5, alpha=0.15),
    # Guidance at the last step is what costs most of the object; the steps before it can go as well then.
    quality=Qualities(medium=Shortcuts(guidance_until=4), low=Shortcuts(guidance_until=2)),
    grids=(((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8)),),
    vocabulary=VocabularyConfig(draws=DRAWS, things=OBJECTS, colours=COLOURS, media=MEDIA, fillers=FILLERS),
)
(SCHEDULE,) = CONFIG.schedules().values()  # nano has one size
GRIDS = SCHEDULE.scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Sizes and rates of a training run. `seed` decides renders, captions, order and initial weights."""

    seed: int = 20261123
    adam_rate: float = 2e-3  # of all that Muon does not train
    flat_share: float = 0.55  # of the steps, before the rates fall linearly
    average: float = 0.998  # decay of the exponential moving average that is shipped
    num_images: int = 48_000
    num_outside: int = 6_000  # pictures from outside the renderer's world, for the image tokenizer alone

    tokenizer_batch: int = 32
    outside_share: float = 0.125  # of a tokenizer's batch
    tokenizer_steps: int = 2_200
    convolution_rate: float = 0.03

    decoder_steps: int = 600  # on quantised features, the encoder and so the bits held fixed
    decoder_share: float = 0.3  # of the tokenizer's rates

    transformer_batch: int = 48
    transformer_steps: int = 3_200
    matrix_rate: float = 0.02
    dropped_text: float = 0.1  # for classifier-free guidance
    max_flips: float = 0.3  # bitwise self-correction (Infinity, section 3.4): share of bits flipped a scale

    checkpoint_every: int = 50
    sheet_every: int = 300
