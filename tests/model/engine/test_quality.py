"""Shortcuts: exact before their step, exactly what their names say after it, and the same in any batch."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.evaluation.flops import count
from service.evaluation.plain_form_infinity import PlainInfinity, bits_of
from service.evaluation.shortcuts import Keeping
from service.model.device.linear import row_tile
from service.model.engine.generator import Generator
from service.model.engine.quality import EXACT, Qualities, Quality, Shortcuts
from service.model.engine.types import ImageSpec, PreviewRequest, Styling, WeightedStyle
from service.model.infinity.backbone import Cache, Infinity
from service.model.infinity.schedules import BUDGETS
from tests.support.specs import SQUARE, picture
from tests.support.specs import specs as specs_of
from tests.support.tiny import tiny_config, tiny_generator, tiny_infinity

pytestmark = pytest.mark.slow

GENERATOR = tiny_generator()
STYLES = [WeightedStyle(GENERATOR.extract_style(picture(seed), SQUARE)) for seed in range(3)]
STYLED = ImageSpec("a red star", 11, SQUARE, styling=Styling((STYLES[0],)))
PLAIN = replace(STYLED, styling=None)

UNGUIDED = Shortcuts(guidance_until=4)
STOPPED = Shortcuts(stop_after=5)
BOTH = Shortcuts(guidance_until=2, stop_after=5)
FIRST_STEP = {UNGUIDED: 5, STOPPED: 6, BOTH: 3}
ALL_SHORTCUTS = pytest.mark.parametrize("shortcuts", FIRST_STEP, ids=str)


def image(spec: ImageSpec, shortcuts: Shortcuts = EXACT, generator: Generator = GENERATOR) -> np.ndarray:
    return generator.generate([replace(spec, shortcuts=shortcuts)])[0].image


def codes(spec: ImageSpec, shortcuts: Shortcuts = EXACT) -> list[Tensor]:
    """Of the image drawn alone: [bits, h, w] a step."""
    keeping = Keeping(tiny_infinity())
    return keeping.codes_of(Generator(keeping), replace(spec, shortcuts=shortcuts))


def operations(specs: list[ImageSpec]) -> list[int]:
    """Of each step, then of the decoder."""
    counts = count(GENERATOR, specs)
    return [step.flops for step in (*counts.steps, counts.decode)]


# Exact where they are off, and until they begin


def test_nothing_is_left_out_unless_asked_for() -> None:
    assert STYLED.shortcuts == EXACT == Shortcuts()
    assert str(EXACT) == "exact"
    assert np.array_equal(image(STYLED), image(STYLED, EXACT))


@ALL_SHORTCUTS
@pytest.mark.parametrize("spec", [STYLED, PLAIN], ids=["styled", "plain"])
def test_before_its_step_a_shortcut_changes_no_bit(spec: ImageSpec, shortcuts: Shortcuts) -> None:
    before = FIRST_STEP[shortcuts] - 1
    exact, found = codes(spec), codes(spec, shortcuts)
    assert all(torch.equal(a, b) for a, b in zip(exact[:before], found[:before], strict=True))
    assert len(found) < len(exact) or not all(map(torch.equal, exact, found))


# What each one is


@pytest.mark.parametrize("spec", [STYLED, PLAIN], ids=["styled", "plain"])
def test_guidance_until_a_step_is_guidance_one_after_it(spec: ImageSpec) -> None:
    listed = replace(spec, guidance=(3.0, 3.0, 3.0, 3.0, 1.0, 1.0))
    assert np.array_equal(image(spec, UNGUIDED), image(listed))
    plain = torch.cat([bits_of(codes) for codes in PlainInfinity(tiny_infinity()).draw(listed).codes])
    assert torch.equal(_bits(codes(spec, UNGUIDED)), plain)


def test_guidance_that_ends_costs_no_unconditional_rows_from_there() -> None:
    exact, found = (operations([replace(STYLED, shortcuts=choice)]) for choice in (EXACT, UNGUIDED))
    assert found[:4] == exact[:4]
    # Half of the rows, and what padding to whole tiles adds to 36 and 64 tokens.
    bound = 0.55 if row_tile().num_rows <= 8 else 0.57
    assert all(a <= bound * b for a, b in zip(found[4:6], exact[4:6], strict=True))
    assert found[6] == exact[6]  # the decoder


@pytest.mark.parametrize("spec", [STYLED, PLAIN], ids=["styled", "plain"])
def test_stopping_early_is_the_feature_of_that_step_decoded_at_full_size(spec: ImageSpec) -> None:
    model = Summing()
    Generator(model).generate([spec])
    expected = Infinity.decode(model, model.features[4][-1:]).images()[0]
    found = image(spec, STOPPED)
    assert found.shape == (64, 64, 3)
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, image(spec))


class Summing(Infinity):
    """The tiny model, which keeps the features after each step."""

    def __init__(self) -> None:
        of = tiny_infinity()
        super().__init__(of.config, of.transformer, of.tokenizer, of.text_encoder, fingerprint="0" * 16)
        self.features: list[Tensor] = []

    def accumulate(self, cache: Cache, features: Tensor, codes: Tensor, step: int) -> Tensor:
        self.features.append(super().accumulate(cache, features, codes, step))
        return self.features[-1]


def test_an_image_that_stops_early_is_watched_to_its_own_end() -> None:
    steps = GENERATOR.preview_steps(SQUARE, 3, STOPPED)
    assert steps == (2, 3, 4)
    shown: list[tuple[int, int]] = []
    watch = PreviewRequest((*steps, 5, 6), lambda seen: shown.append((seen.step, seen.num_steps)))
    (drawing,) = GENERATOR.generate([replace(STYLED, shortcuts=STOPPED, previews=watch)])
    assert shown == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert drawing.num_image_tokens == 1 + 4 + 9 + 16 + 36
    assert len(drawing.timings.step_seconds) == 5


@ALL_SHORTCUTS
def test_who_looks_on_changes_nothing(shortcuts: Shortcuts) -> None:
    watch = PreviewRequest((1, 2, 3, 4, 5, 6), lambda _: None)
    assert np.array_equal(image(replace(STYLED, previews=watch), shortcuts), image(STYLED, shortcuts))


# Batches

POOL = specs_of(GENERATOR, SQUARE)
ALONE = {shortcuts: [image(spec, shortcuts) for spec in POOL] for shortcuts in FIRST_STEP}


@ALL_SHORTCUTS
@settings(max_examples=6, deadline=None)
@given(chosen=st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=9))
def test_an_image_is_the_same_alone_and_in_any_batch(shortcuts: Shortcuts, chosen: list[int]) -> None:
    drawings = GENERATOR.generate([replace(POOL[index], shortcuts=shortcuts) for index in chosen])
    for index, drawing in zip(chosen, drawings, strict=True):
        assert np.array_equal(drawing.image, ALONE[shortcuts][index])


def test_a_batch_of_two_choices_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch has one choice of shortcuts, not 2"):
        GENERATOR.generate([STYLED, replace(STYLED, shortcuts=STOPPED)])


# Settings


@pytest.mark.parametrize(
    ("shortcuts", "sentence"),
    [
        (Shortcuts(guidance_until=0), "guidance_until: must be a step from 1 to 5, not 0"),
        (Shortcuts(guidance_until=6), "guidance_until: must be a step from 1 to 5, not 6"),
        (Shortcuts(guidance_until=5, stop_after=5), "guidance_until: must be a step from 1 to 4, not 5"),
        (Shortcuts(stop_after=3), "stop_after: must be a step from 4 to 5, not 3"),
        (Shortcuts(stop_after=6), "stop_after: must be a step from 4 to 5, not 6"),
    ],
)
def test_a_shortcut_that_does_not_fit_the_steps_is_refused_by_its_field(
    shortcuts: Shortcuts, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        image(STYLED, shortcuts)
    text = tiny_config(quality=Qualities(low=shortcuts)).to_json()
    with pytest.raises(ValueError, match=rf"quality\.low\..*{sentence}"):
        type(tiny_config()).from_settings(json.loads(text))


def test_a_configuration_keeps_its_qualities() -> None:
    config = tiny_config(quality=Qualities(medium=UNGUIDED, low=BOTH))
    assert type(config).from_settings(json.loads(config.to_json())) == config
    assert "quality" not in tiny_config().to_json()
    assert tiny_config().qualities() == Qualities()


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_budget_has_qualities_that_leave_out_more_and_more(budget: str) -> None:
    config = tiny_config(
        budget=budget, grids=(), transformer=replace(tiny_config().transformer, max_scales=13)
    )
    qualities = type(config).from_settings(json.loads(config.to_json())).qualities()
    scales = next(iter(config.schedules().values())).scales
    work = [
        sum(
            scale.num_tokens * (2 if guidance != 1.0 else 1)
            for scale, guidance in zip(scales, shortcuts.shorten((3.0,) * len(scales)), strict=False)
        )
        for shortcuts in qualities.shortcuts().values()
    ]
    assert work[0] > 1.3 * work[1] > 1.3 * 1.3 * work[2]


def test_a_quality_is_named_by_what_is_taken() -> None:
    qualities = Qualities(low=BOTH)
    assert qualities.name_of(BOTH) is Quality.LOW
    assert qualities.name_of(qualities.shortcuts()[Quality.MEDIUM]) is Quality.HIGH


def _bits(codes: list[Tensor]) -> Tensor:
    """[tokens, bits] bool of all steps."""
    return torch.cat([(code > 0).flatten(1).T for code in codes])
