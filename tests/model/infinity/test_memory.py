"""What a batch takes, computed and measured: on the CPU by the operating system, on a GPU by torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, PreviewRequest, Styling, WeightedStyle
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import TokenizerConfig, TransformerConfig
from tests.support.peak_memory import measured_by, peak_bytes, print_measured
from tests.support.tiny import tiny_config, tiny_infinity

pytestmark = pytest.mark.slow

# The estimate is never below what is measured, and at most this many times as large.
MOST_OVER = 2.0


@dataclass(frozen=True)
class Shape:
    width: int
    depth: int
    channels: int  # of the image tokenizer
    budget: str
    num_images: int
    dtype: torch.dtype = torch.float32
    is_fused: bool = False  # as on a GPU


SHAPES = {
    "cache": Shape(width=256, depth=12, channels=8, budget="0.06M", num_images=2),
    "deep": Shape(width=128, depth=24, channels=8, budget="0.06M", num_images=3),
    "step": Shape(width=512, depth=1, channels=8, budget="0.25M", num_images=2),
    "half": Shape(width=256, depth=12, channels=8, budget="0.06M", num_images=2, dtype=torch.bfloat16),
    "fused": Shape(width=256, depth=12, channels=8, budget="0.06M", num_images=2, is_fused=True),
    "fused step": Shape(width=512, depth=1, channels=8, budget="0.25M", num_images=2, is_fused=True),
    "decoding": Shape(width=64, depth=1, channels=32, budget="0.06M", num_images=1),
}


def generator_of(shape: Shape, device: str = "cpu") -> Generator:
    config = tiny_config(
        transformer=TransformerConfig(
            depth=shape.depth,
            width=shape.width,
            num_heads=shape.width // 64,
            text_channels=128,
            max_text_tokens=128,
        ),
        tokenizer=TokenizerConfig(
            num_bits=8,
            stride=16,
            channels=shape.channels,
            multipliers=(1, 2, 4, 4, 4),
            num_blocks=2,
            num_groups=4,
        ),
        budget=shape.budget,
        grids=(),
    )
    infinity = tiny_infinity(config, device=device)
    infinity.transformer.hold_blocks_in(shape.dtype)
    infinity.tokenizer.hold_decoder_in(shape.dtype)
    parts = infinity.transformer, infinity.tokenizer, infinity.text_encoder
    infinity = Infinity(config, *parts, fingerprint="0" * 16)
    infinity.is_fused = shape.is_fused or device != "cpu"
    infinity.decodes_beside = False  # one batch is measured, and not the one before it as well
    return Generator(infinity)


def batch(generator: Generator, num_images: int) -> list[ImageSpec]:
    """The largest there is: each image with a content path, a style, a full text and a late partial image."""
    size = generator.default_size
    blank = np.full((size.height, size.width, 3), 99, np.uint8)
    style = Styling((WeightedStyle(generator.extract_style(blank, size)),))
    watch = PreviewRequest((generator.num_steps(size) - 1,), lambda _: None)
    long = "star " * generator.max_prompt_tokens
    return [ImageSpec(long, seed, size, styling=style, previews=watch) for seed in range(num_images)]


def estimated(generator: Generator, num_images: int) -> int:
    schedule = generator.backbone.schedules[generator.default_size]
    return generator.backbone.batch_bytes(schedule, num_images)


def measure(name: str) -> tuple[int, int]:
    """The estimate and the peak."""
    generator, num_images = generator_of(SHAPES[name]), SHAPES[name].num_images
    specs = batch(generator, num_images)
    generator.generate(specs[:1])  # whatever the first call alone takes
    return estimated(generator, num_images), peak_bytes(lambda: generator.generate(specs))


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[int, int]]:
    return measured_by("tests.model.infinity.test_memory")


@pytest.mark.skipif(sys.platform != "linux", reason="measured from /proc")
@pytest.mark.parametrize("name", SHAPES)
def test_the_estimate_on_the_cpu_is_no_less_than_the_peak_and_not_far_above(
    name: str, measured: dict[str, tuple[int, int]]
) -> None:
    estimate, peak = measured[name]
    assert peak <= estimate <= MOST_OVER * peak


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SHAPES)
def test_the_estimate_on_a_gpu_is_no_less_than_the_peak_and_not_far_above(name: str) -> None:
    generator, num_images = generator_of(SHAPES[name], "cuda"), SHAPES[name].num_images
    specs = batch(generator, num_images)
    generator.generate(specs)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    generator.generate(specs)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= estimated(generator, num_images) <= MOST_OVER * peak


if __name__ == "__main__":
    print_measured(measure, SHAPES)
