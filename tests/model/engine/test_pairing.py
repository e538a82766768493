"""The paired engine equals the plain two-run form, and a job's image does not depend on its batch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.evaluation.plain_form_infinity import PlainInfinity, bits_of
from service.evaluation.recording import Recording
from service.model.engine.generator import Generator
from service.model.engine.plan import Plan, texts_of
from service.model.engine.types import ImageSpec
from service.model.schedule import Size
from tests.support.backbones import MAKERS, ON_EVERY_BACKBONE, generator_of
from tests.support.specs import SQUARE, WIDE, specs
from tests.support.tiny import tiny_infinity

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", [SQUARE, WIDE], ids=str)
def test_a_mixed_batch_has_the_bits_of_two_plain_runs_a_job(size: Size) -> None:
    infinity = tiny_infinity()
    batch = specs(Generator(infinity), size)
    texts = {text: infinity.encode_text(text) for spec in batch for text in texts_of(spec)}
    recording = Recording.of(infinity, {prompt: text.conditioning for prompt, text in texts.items()})
    plan = Plan.of(batch, infinity.schedules[size], texts, infinity)
    Generator(recording).generate(batch)
    for spec, path in zip(batch, plan.path_of_spec, strict=True):
        trace, source = PlainInfinity(infinity).draw(spec), plan.paths[path].source
        bits = recording.path_bits(path, path if source is None else source)
        assert torch.equal(bits, torch.cat([bits_of(codes) for codes in trace.codes])), spec.prompt
        assert (recording.features[-1][path] - trace.feature).abs().max() < 1e-5


@cache
def pool(backbone: str) -> tuple[list[ImageSpec], list[np.ndarray]]:
    """Images to draw, and each drawn alone."""
    generator = generator_of(backbone)
    wanted = specs(generator, SQUARE)
    return wanted, [generator.generate([spec])[0].image for spec in wanted]


@ON_EVERY_BACKBONE
@settings(max_examples=25, deadline=None)
@given(chosen=st.lists(st.integers(0, 8), min_size=1, max_size=9))
def test_an_image_is_the_same_alone_and_in_any_batch(backbone: str, chosen: list[int]) -> None:
    wanted, alone = pool(backbone)
    drawings = generator_of(backbone).generate([wanted[index] for index in chosen])
    for index, drawing in zip(chosen, drawings, strict=True):
        assert np.array_equal(drawing.image, alone[index])


@ON_EVERY_BACKBONE
def test_an_image_is_the_same_after_a_restart(backbone: str) -> None:
    again = MAKERS[backbone]()
    for spec, image in zip(specs(again, SQUARE), pool(backbone)[1], strict=True):
        assert np.array_equal(again.generate([spec])[0].image, image)


@ON_EVERY_BACKBONE
def test_specs_that_differ_give_different_images(backbone: str) -> None:
    wanted, alone = pool(backbone)
    assert len({image.tobytes() for image in alone}) == len(wanted) == 9
