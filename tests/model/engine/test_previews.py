"""Preview images: true prefixes of the final one, small, and of no cost to those who do not look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from service.model.device.transfer import DecodedImages
from service.model.engine.generator import Generator
from service.model.engine.previews import preview_steps
from service.model.engine.types import ImageSpec, Preview, PreviewRequest, Styling, WeightedStyle
from service.model.infinity.backbone import Cache, Infinity
from service.model.style.resize import resize
from tests.support.backbones import ON_EVERY_BACKBONE, generator_of, style_of
from tests.support.specs import SQUARE, picture
from tests.support.tiny import tiny_generator, tiny_infinity

GENERATOR = tiny_generator()
STYLED = ImageSpec(
    "a red star", 11, SQUARE, styling=Styling((WeightedStyle(GENERATOR.extract_style(picture(0), SQUARE)),))
)
EVERY_STEP = (1, 2, 3, 4, 5, 6)


class Looking(Infinity):
    """The tiny model, which keeps every grid that it was asked to decode, and every code."""

    def __init__(self) -> None:
        of = tiny_infinity()
        super().__init__(of.config, of.transformer, of.tokenizer, of.text_encoder, fingerprint="0" * 16)
        self.decoded: list[Tensor] = []
        self.codes: list[Tensor] = []

    def accumulate(self, cache: Cache, features: Tensor, codes: Tensor, step: int) -> Tensor:
        self.codes.append(codes)
        return super().accumulate(cache, features, codes, step)

    def decode(self, feature: Tensor) -> DecodedImages:
        self.decoded.append(feature)
        return super().decode(feature)


def watched(spec: ImageSpec, *steps: int) -> tuple[ImageSpec, list[Preview]]:
    shown: list[Preview] = []
    return replace(spec, previews=PreviewRequest(steps, shown.append)), shown


def test_a_partial_image_is_the_codes_so_far_and_the_final_one_adds_only_what_comes_after() -> None:
    model = Looking()
    spec, shown = watched(replace(STYLED, styling=None), *EVERY_STEP)
    (drawing,) = Generator(model).generate([spec])
    grids = model.feature_grids(model.schedules[SQUARE])
    so_far = torch.zeros(1, model.num_channels, 8, 8)
    for partial, grid, codes in zip(shown, grids, model.codes, strict=True):
        so_far = so_far + resize(codes, grids[-1])
        expected = Infinity.decode(model, resize(so_far, grid)).images()[0]
        assert np.array_equal(partial.image, expected)
        assert partial.image.shape == (8 * grid.height, 8 * grid.width, 3)
    assert [(partial.step, partial.num_steps) for partial in shown] == [(step, 6) for step in EVERY_STEP]
    assert np.array_equal(shown[-1].image, drawing.image)


@ON_EVERY_BACKBONE
def test_partial_images_of_a_style_show_it_from_the_key_step_on(backbone: str) -> None:
    spec, shown = watched(replace(STYLED, styling=Styling((style_of(backbone, 0),))), *EVERY_STEP)
    plain, plain_shown = watched(replace(STYLED, styling=None), *EVERY_STEP)
    (drawing, _) = generator_of(backbone).generate([spec, plain])
    assert np.array_equal(shown[-1].image, drawing.image)
    same = [np.array_equal(a.image, b.image) for a, b in zip(shown, plain_shown, strict=True)]
    assert same == [True, True, False, False, False, False]


def test_who_looks_on_changes_no_image_and_sees_the_same_alone_and_in_company() -> None:
    (alone,) = GENERATOR.generate([STYLED])
    spec, shown = watched(STYLED, 2, 3, 5)
    other, other_shown = watched(replace(STYLED, seed=12), 4)
    _, drawing, _ = GENERATOR.generate([replace(STYLED, prompt="a mug"), spec, other])
    assert np.array_equal(drawing.image, alone.image)
    assert [partial.step for partial in shown] == [2, 3, 5]
    assert [partial.step for partial in other_shown] == [4]
    by_itself, shown_alone = watched(STYLED, 2, 3, 5)
    GENERATOR.generate([by_itself])
    assert all(np.array_equal(a.image, b.image) for a, b in zip(shown, shown_alone, strict=True))


def test_a_batch_that_nobody_watches_decodes_nothing_but_its_images() -> None:
    model = Looking()
    generator = Generator(model)
    generator.generate([STYLED, replace(STYLED, seed=12)])
    assert [len(feature) for feature in model.decoded] == [2]
    spec, _ = watched(STYLED, 4)
    generator.generate([spec, replace(STYLED, seed=12)])
    assert [tuple(feature.shape[2:]) for feature in model.decoded[1:]] == [(4, 4), (8, 8)]
    assert [len(feature) for feature in model.decoded[1:]] == [
        1,
        2,
    ]  # the one without previews is not decoded early


def test_partial_images_count_as_decoding_and_not_as_steps() -> None:
    spec, _ = watched(STYLED, *EVERY_STEP)
    timings = GENERATOR.generate([spec])[0].timings
    assert 0 < sum(timings.step_seconds) <= timings.transformer_seconds


@pytest.mark.parametrize(
    ("num_previews", "key_step", "num_steps", "steps"),
    [
        (0, 3, 13, ()),
        (1, 3, 13, (8,)),
        (2, 3, 13, (5, 10)),
        (3, 3, 13, (4, 8, 11)),
        (3, 3, 6, (3, 4, 5)),
        (3, 4, 5, (2, 3, 4)),
        (3, 1, 3, (1, 2)),
        (2, 1, 1, ()),
    ],
)
def test_the_steps_shown_are_spread_from_the_key_step_to_the_last_but_one(
    num_previews: int, key_step: int, num_steps: int, steps: tuple[int, ...]
) -> None:
    assert preview_steps(num_previews, key_step=key_step, num_steps=num_steps) == steps


def test_tokens_are_counted_of_the_texts_and_of_all_scales() -> None:
    short, long = GENERATOR.generate([STYLED, replace(STYLED, negative_prompt="a blue mug")])
    assert short.num_image_tokens == 1 + 4 + 9 + 16 + 36 + 64
    assert 0 < short.num_text_tokens < long.num_text_tokens


class OnItsWay(DecodedImages):
    """As from a GPU: not there until somebody waits for it, which is noted."""

    is_ready = False

    def __init__(self, images: Tensor, note: Callable[[str], None]) -> None:
        super().__init__(images)
        self._note = note

    def images(self) -> np.ndarray:
        self._note("waited")
        return super().images()


class Remote(Looking):
    """The tiny model, as if its images had to come from a device that is still at work on them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def predict(self, cache: Cache, features: Tensor, step: int) -> Tensor:
        self.events.append(f"step {step}")
        return super().predict(cache, features, step)

    def decode(self, feature: Tensor) -> DecodedImages:
        self.events.append("decode")
        return OnItsWay(self.decoding.images(feature), self.events.append)


def test_a_partial_image_of_a_gpu_is_waited_for_when_the_next_step_is_launched() -> None:
    model = Remote()
    spec, shown = watched(STYLED, 3, 6)
    model.decodes_beside = False  # whatever cores are here
    drawn = Generator(model).draw([spec])
    assert not drawn.is_ready
    assert model.events == [
        "step 1", "step 2", "step 3", "decode", "step 4", "waited", "step 5", "step 6", "decode", "waited",
        "decode",
    ]  # fmt: skip
    (drawing,) = drawn.drawings()
    assert model.events[-1] == "waited"
    here, shown_here = watched(STYLED, 3, 6)
    (expected,) = GENERATOR.generate([here])
    assert np.array_equal(drawing.image, expected.image)
    for ours, theirs in zip(shown, shown_here, strict=True):
        assert np.array_equal(ours.image, theirs.image)
