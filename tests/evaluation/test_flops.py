"""What is computed is within two per cent of what has to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.evaluation.flops import Batch, count, floor
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Method, Styling, WeightedStyle
from service.model.infinity.config import TokenizerConfig, TransformerConfig
from tests.support.tiny import tiny_config, tiny_infinity

pytestmark = pytest.mark.slow

# Two layers for eight: every layer costs the same, and the test is quick.
CONFIG = tiny_config(
    transformer=TransformerConfig(
        depth=2, width=512, num_heads=4, text_channels=128, max_text_tokens=64, max_scales=15
    ),
    tokenizer=TokenizerConfig(
        num_bits=32, stride=16, channels=8, multipliers=(1, 1, 2, 2, 2), num_blocks=1, num_groups=4
    ),
    grids=(),
    budget="0.06M",
)
GENERATOR = Generator(tiny_infinity(CONFIG))
SIZE = GENERATOR.default_size
STYLE = GENERATOR.extract_style(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), SIZE)
PLAIN = ImageSpec("a red star on a blue background in neon", 3, SIZE)
STYLED = replace(PLAIN, styling=Styling((WeightedStyle(STYLE),)))
ALONE = replace(PLAIN, styling=Styling((WeightedStyle(STYLE),), method=Method.PFB))


@pytest.mark.parametrize(
    ("specs", "batch"),
    [
        ([STYLED], Batch()),
        ([PLAIN], Batch(num_corrected=0, num_content_drawn=1)),
        ([STYLED, PLAIN], Batch(num_content_drawn=1)),
        ([STYLED, STYLED, ALONE], Batch(num_corrected=2, num_uncorrected=1)),
        ([STYLED, replace(STYLED, seed=4)], Batch(num_content=2, num_corrected=2)),
        ([replace(STYLED, guidance=1.0)], Batch(num_halves=1, num_texts=1)),
    ],
    ids=["styled", "plain", "both", "three styles, one uncorrected", "two seeds", "no guidance"],
)
def test_counted_operations_are_within_two_per_cent_of_the_floor(
    specs: list[ImageSpec], batch: Batch
) -> None:
    least = floor(CONFIG, GENERATOR.backbone.schedules[SIZE], replace(batch, num_text_tokens=10))
    counts = count(GENERATOR, specs)
    found = [counted.flops for counted in (*counts.steps, counts.decode)]
    assert len(found) == len(least.steps) + 1
    assert least.total <= sum(found) <= 1.02 * least.total
    assert found[-1] == least.decode.total
    assert least.steps[-1].total <= found[-2] <= 1.02 * least.steps[-1].total
