"""The paired engine equals the plain two-run form, and a job's image does not depend on its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.evaluation.plain import draw
from service.evaluation.recording import Recording
from service.model.engine.generator import Generator
from service.model.engine.plan import plan_of, texts_of
from service.model.engine.types import ImageSpec, Method, Styling, WeightedStyle
from service.model.infinity.backbone import Infinity
from service.model.schedule import Size
from tests.support.tiny import tiny_generator, tiny_infinity

pytestmark = pytest.mark.slow

SQUARE, WIDE = Size(64, 64), Size(96, 64)


class Watched(Recording):
    """The recording backbone on real prompts."""

    def __init__(self, infinity: Infinity) -> None:
        super().__init__(infinity, {})
        self.encode_text = infinity.encode_text  # type: ignore[method-assign]


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return blocks.repeat(20, 0).repeat(20, 1)


def specs(generator: Generator, size: Size) -> list[ImageSpec]:
    """Prompts, seeds, guidance, styles, strengths and methods of every kind, long and short."""
    styles = [WeightedStyle(generator.extract_style(picture(seed), size)) for seed in range(3)]
    long = "a green mug, drawn in neon on a purple wall, " * 4
    return [
        ImageSpec("a red star", 1, size, styling=Styling((styles[0],))),
        ImageSpec("a red star", 1, size, styling=Styling((styles[1],), strength=0.5, alpha=0.2)),
        ImageSpec("a red star", 1, size),
        ImageSpec("a red star", 2, size, styling=Styling((styles[0],), method=Method.PFB)),
        ImageSpec("a blue cat", 1, size, guidance=5.0, styling=Styling((styles[2],), method=Method.REP)),
        ImageSpec(long, 7, size, styling=Styling((styles[2],), alpha=5.0)),
        ImageSpec(
            "a house", 2**32 - 1, size, negative_prompt="red", styling=Styling(tuple(styles), strength=0.3)
        ),
        ImageSpec("a tree", 3, size, negative_prompt=long, guidance=2.0),
        ImageSpec("a fish", 4, size, styling=Styling((styles[1],), method=Method.REP_SAC)),
    ]


@pytest.mark.parametrize("size", [SQUARE, WIDE], ids=str)
def test_a_mixed_batch_has_the_bits_of_two_plain_runs_a_job(size: Size) -> None:
    infinity = tiny_infinity()
    watched = Watched(infinity)
    batch = specs(Generator(watched), size)
    texts = {text: infinity.encode_text(text) for spec in batch for text in texts_of(spec)}
    schedule = infinity.schedules[size]
    plan = plan_of(batch, schedule, texts, guidance=infinity.guidance, key_step=infinity.key_step)
    Generator(watched).generate(batch)
    for spec, path in zip(batch, plan.path_of_spec, strict=True):
        trace = draw(infinity, spec)
        assert torch.equal(watched.path_bits(path, plan.sources[path]), torch.cat(trace.bits)), spec.prompt
        assert (watched.features[-1][path] - trace.feature).abs().max() < 1e-5


GENERATOR = tiny_generator()
POOL = specs(GENERATOR, SQUARE)
ALONE = [GENERATOR.generate([spec])[0].image for spec in POOL]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=9))
def test_an_image_is_the_same_alone_and_in_any_batch(chosen: list[int]) -> None:
    drawings = GENERATOR.generate([POOL[index] for index in chosen])
    for index, drawing in zip(chosen, drawings, strict=True):
        assert np.array_equal(drawing.image, ALONE[index])


def test_an_image_is_the_same_after_a_restart() -> None:
    again = tiny_generator()
    for spec, image in zip(specs(again, SQUARE), ALONE, strict=True):
        assert np.array_equal(again.generate([spec])[0].image, image)


def test_specs_that_differ_give_different_images() -> None:
    assert len({image.tobytes() for image in ALONE}) == len(ALONE)
