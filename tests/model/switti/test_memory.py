"""What a batch takes, computed and measured on the CPU by the operating system."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, PreviewRequest, Styling, WeightedStyle
from service.model.switti.config import SamplingConfig, SwittiConfig, TokenizerConfig, TransformerConfig
from tests.support.peak_memory import measured_by, peak_bytes, print_measured
from tests.support.tiny_switti import served_config, tiny_switti

pytestmark = pytest.mark.slow

MOST_OVER = 2.0  # the estimate is never below what is measured, and at most this many times as large


def shape(
    *, width: int, depth: int, channels: int = 8, num_codes: int = 300, is_causal: bool = False
) -> SwittiConfig:
    return replace(
        served_config(),
        transformer=TransformerConfig(
            depth=depth,
            width=width,
            num_heads=width // 64,
            is_causal=is_causal,
            text_channels=128,
            pooled_channels=64,
        ),
        tokenizer=TokenizerConfig(
            num_codes=num_codes,
            code_channels=8,
            channels=channels,
            multipliers=(1, 2, 2, 4),
            num_blocks=2,
            num_groups=4,
        ),
        grids=(1, 2, 3, 4, 9, 16, 24),
    )


GUIDED = SamplingConfig(num_guided_steps=7, top_k=100)
# What is measured, and of how many images.
SHAPES = {
    # Guided to the end: a CPU gives memory only to what is filled, and rows are dropped when guidance ends.
    "cache": (replace(shape(width=256, depth=12, is_causal=True), sampling=GUIDED), 2),
    "step": (shape(width=384, depth=2), 3),
    "drawing": (shape(width=128, depth=1, num_codes=4096), 3),
    "mixing": (replace(shape(width=128, depth=1, num_codes=4096), sampling=GUIDED), 2),
    "decoding": (shape(width=64, depth=1, channels=64), 1),
}


def measure(name: str) -> tuple[int, int]:
    """The estimate and the peak."""
    config, num_images = SHAPES[name]
    switti = tiny_switti(config)
    switti.decodes_beside = False  # one batch is measured, and not the one before it as well
    generator = Generator(switti)
    size = generator.default_size
    blank = np.full((size.height, size.width, 3), 99, np.uint8)
    styling = Styling((WeightedStyle(generator.extract_style(blank, size)),))
    previews = PreviewRequest((generator.num_steps(size) - 1,), lambda _: None)
    long = "star " * generator.max_prompt_tokens
    specs = [ImageSpec(long, seed, size, styling=styling, previews=previews) for seed in range(num_images)]
    generator.generate(specs[:1])  # whatever the first call alone takes
    peak = peak_bytes(lambda: generator.generate(specs))
    return generator.backbone.batch_bytes(generator.backbone.schedules[size], num_images), peak


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[int, int]]:
    return measured_by("tests.model.switti.test_memory")


@pytest.mark.skipif(sys.platform != "linux", reason="measured from /proc")
@pytest.mark.parametrize("name", SHAPES)
def test_the_estimate_is_no_less_than_the_peak_and_not_far_above(
    name: str, measured: dict[str, tuple[int, int]]
) -> None:
    estimate, peak = measured[name]
    assert peak <= estimate <= MOST_OVER * peak


if __name__ == "__main__":
    print_measured(measure, SHAPES)
