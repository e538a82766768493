"""The form of the engine that GPUs and compilers run: fused kernels, padded texts, no shape in the code."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from service.model.engine.generator import Generator
from service.model.engine.quality import EXACT, Qualities, Shortcuts
from service.model.engine.types import ImageSpec
from tests.support.specs import SQUARE, WIDE, specs
from tests.support.tiny import tiny_config, tiny_generator, tiny_infinity

pytestmark = pytest.mark.slow

SHORTCUTS = (
    Shortcuts(guidance_until=4),
    Shortcuts(guidance_until=3, stop_after=5),
)
PLAIN = tiny_generator()


def assert_alike(generator: Generator, batch: list[ImageSpec]) -> None:
    """Sums in another order: no bit is another one here, and no pixel by more than a rounding."""
    for ours, exact in zip(generator.generate(batch), PLAIN.generate(batch), strict=True):
        assert np.abs(ours.image.astype(int) - exact.image).max() <= 1


@pytest.mark.parametrize("size", [SQUARE, WIDE], ids=str)
@pytest.mark.parametrize("shortcuts", [EXACT, *SHORTCUTS], ids=str)
def test_fused_kernels_on_padded_texts_draw_what_the_exact_ones_do(size: Any, shortcuts: Shortcuts) -> None:
    fused = tiny_infinity()
    fused.is_fused = True
    assert_alike(Generator(fused), [replace(spec, shortcuts=shortcuts) for spec in specs(PLAIN, size)])


def test_a_compiled_block_has_no_graph_break_and_draws_the_same() -> None:
    compiled = tiny_infinity()
    compiled.compile(backend="aot_eager")
    assert_alike(Generator(compiled), specs(PLAIN, SQUARE)[:4])


def test_after_the_warm_up_nothing_is_compiled_whatever_is_asked_for() -> None:
    medium, low = SHORTCUTS
    compiled = tiny_infinity(tiny_config(quality=Qualities(medium=medium, low=low)))
    num_versions = 0

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        nonlocal num_versions
        num_versions += 1
        return graph.forward

    torch._dynamo.reset()
    compiled.compile(backend=backend)
    generator = Generator(compiled)
    with ThreadPoolExecutor(1) as thread:  # as in the service; the compiler has settings for each thread
        thread.submit(generator.warm_up).result()
        warm = num_versions
        assert 10 < warm < 40
        for batch in _asked_for(specs(PLAIN, SQUARE), specs(PLAIN, WIDE)):
            thread.submit(assert_alike, generator, batch).result()
            assert num_versions == warm, batch


def _asked_for(*of_sizes: list[ImageSpec]) -> list[list[ImageSpec]]:
    """Alone and together, guided and not, at every quality, with prompts of every length."""
    batches = []
    for batch in of_sizes:
        empty, plain = replace(batch[0], prompt=""), batch[2]
        unguided = [replace(spec, guidance=1.0, negative_prompt="") for spec in batch]
        batches += [[spec] for spec in (*batch, empty, unguided[0], unguided[2])]
        batches += [batch, batch[:2], batch[3:6], unguided, [unguided[0], batch[1]]]
        batches += [[replace(plain, seed=seed) for seed in range(5)], [batch[0], batch[0]]]
        batches += [unguided[:2], unguided[:3]]
        for shortcuts in SHORTCUTS:
            for chosen in (batch, unguided):
                shorter = [replace(spec, shortcuts=shortcuts) for spec in chosen]
                batches += [shorter, shorter[:1], shorter[:2], shorter[:3], shorter[2:3], shorter[3:4]]
    return batches
