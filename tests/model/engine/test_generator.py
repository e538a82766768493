"""What the Generator promises its callers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.model.checkpoints import registry as presets
from service.model.engine.generator import Cancelled, Generator
from service.model.engine.types import ContentPicture, Edit, ImageSpec, Method, Styling, WeightedStyle
from service.model.infinity.config import VocabularyConfig
from service.model.schedule import Size
from service.model.style.feature import StyleFeature
from tests.support.backbones import ON_EVERY_BACKBONE, generator_of, style_of
from tests.support.process import write_tiny_model
from tests.support.specs import SQUARE, WIDE, picture
from tests.support.tiny import tiny_config, tiny_infinity

GENERATOR = generator_of("infinity")
STYLE = style_of("infinity", 0).feature
PLAIN = ImageSpec("a red star", 11, SQUARE)


def draw(backbone: str = "infinity", **changes: object) -> np.ndarray:
    styling = Styling((style_of(backbone, 0),), **changes)  # type: ignore[arg-type]
    return generator_of(backbone).generate([replace(PLAIN, styling=styling)])[0].image


@ON_EVERY_BACKBONE
def test_strength_zero_is_the_plain_model_bit_for_bit_and_more_is_not(backbone: str) -> None:
    (plain,) = generator_of(backbone).generate([PLAIN])
    assert np.array_equal(draw(backbone, strength=0.0), plain.image)
    assert not np.array_equal(draw(backbone, strength=0.5), plain.image)
    assert not np.array_equal(draw(backbone, strength=0.5), draw(backbone, strength=1.0))


@ON_EVERY_BACKBONE
def test_alpha_and_every_method_change_the_image(backbone: str) -> None:
    images = [
        draw(backbone),
        draw(backbone, alpha=5.0),
        draw(backbone, method=Method.PFB),
        draw(backbone, method=Method.REP),
        draw(backbone, method=Method.REP_SAC),
    ]
    assert len({image.tobytes() for image in images}) == len(images)


@ON_EVERY_BACKBONE
def test_a_mixture_with_one_weight_zero_is_the_other_style(backbone: str) -> None:
    both = Styling((style_of(backbone, 0), replace(style_of(backbone, 1), weight=0.0)))
    (drawing,) = generator_of(backbone).generate([replace(PLAIN, styling=both)])
    assert np.array_equal(drawing.image, draw(backbone))


@ON_EVERY_BACKBONE
def test_jobs_of_one_prompt_and_seed_share_a_content_path(backbone: str) -> None:
    batch = [
        PLAIN,
        replace(PLAIN, styling=Styling((style_of(backbone, 0),))),
        replace(PLAIN, styling=Styling((style_of(backbone, 1),))),
        replace(PLAIN, seed=12),
    ]
    timings = generator_of(backbone).generate(batch)[0].timings
    assert timings.num_content_paths_shared == 2
    assert timings.num_rows == 2 * (2 + 2)  # two content and two generation paths, two guidance halves each
    assert timings.num_jobs == 4


@ON_EVERY_BACKBONE
def test_several_styles_of_one_prompt_are_what_as_many_requests_give(backbone: str) -> None:
    styled = [replace(PLAIN, styling=Styling((style_of(backbone, seed),))) for seed in range(3)]
    together = generator_of(backbone).generate(styled)
    for spec, drawing in zip(styled, together, strict=True):
        (alone,) = generator_of(backbone).generate([spec])
        assert np.array_equal(drawing.image, alone.image)


def test_no_guidance_needs_no_unconditional_rows() -> None:
    assert GENERATOR.generate([replace(PLAIN, guidance=1.0)])[0].timings.num_rows == 1


def test_guidance_of_one_value_a_step_is_taken_step_by_step() -> None:
    constant = GENERATOR.generate([replace(PLAIN, guidance=2.0)])[0].image
    stepwise = GENERATOR.generate([replace(PLAIN, guidance=(2.0,) * 6)])[0].image
    varied = GENERATOR.generate([replace(PLAIN, guidance=(2.0, 2.0, 2.0, 4.0, 1.0, 1.0))])[0].image
    assert np.array_equal(constant, stepwise)
    assert not np.array_equal(constant, varied)
    with pytest.raises(ValueError, match="3 values for 6 steps"):
        GENERATOR.generate([replace(PLAIN, guidance=(1.0, 2.0, 3.0))])


def test_a_batch_that_is_cancelled_stops_at_the_next_step() -> None:
    asked = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) == 3

    with pytest.raises(Cancelled, match="stopped after step 3 of 6"):
        GENERATOR.generate([PLAIN], cancelled)
    assert len(asked) == 3


def test_timings_cover_every_step_and_stage() -> None:
    timings = GENERATOR.generate([PLAIN])[0].timings
    assert len(timings.step_seconds) == GENERATOR.num_steps(SQUARE) == 6
    assert all(second > 0 for second in timings.step_seconds)
    assert sum(timings.step_seconds) <= timings.transformer_seconds
    assert timings.text_seconds > 0
    assert timings.decode_seconds > 0


def test_every_native_size_gives_its_pixels_and_another_is_refused_by_name() -> None:
    for size in GENERATOR.sizes:
        image = GENERATOR.generate([replace(PLAIN, size=size)])[0].image
        assert image.shape == (size.height, size.width, 3)
        assert image.dtype == np.uint8
    with pytest.raises(ValueError, match="tiny draws 64x64, 96x64, not 8x8"):
        GENERATOR.generate([replace(PLAIN, size=Size(8, 8))])


def test_a_batch_of_two_sizes_or_two_key_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        GENERATOR.generate([PLAIN, replace(PLAIN, size=WIDE)])
    steps = [replace(PLAIN, styling=Styling((WeightedStyle(STYLE),), key_step=step)) for step in (2, 3)]
    with pytest.raises(ValueError, match="one key step"):
        GENERATOR.generate(steps)


def test_the_key_step_belongs_to_the_configuration_and_to_the_schedules_name() -> None:
    later = Generator(tiny_infinity(replace(tiny_config(), style=replace(tiny_config().style, key_step=4))))
    assert later.schedule_name(SQUARE) != GENERATOR.schedule_name(SQUARE) != GENERATOR.schedule_name(WIDE)
    style = later.extract_style(picture(0), SQUARE)
    assert sum(grid.num_tokens for grid in style.grids) == 1 + 4 + 9 + 16
    image = later.generate([replace(PLAIN, styling=Styling((WeightedStyle(style),)))])[0].image
    assert not np.array_equal(image, draw())


@ON_EVERY_BACKBONE
def test_a_style_feature_does_not_change_when_it_is_stored(backbone: str) -> None:
    stored = StyleFeature.from_bytes(style_of(backbone, 0).feature.to_bytes())
    styling = Styling((WeightedStyle(stored),))
    (drawing,) = generator_of(backbone).generate([replace(PLAIN, styling=styling)])
    assert np.array_equal(drawing.image, draw(backbone))


def test_a_prompt_without_a_known_word_carries_a_warning() -> None:
    known, unknown = GENERATOR.generate([PLAIN, replace(PLAIN, prompt="xyzzy qwerty")])
    assert known.warnings == ()
    assert unknown.warnings == ("the prompt names nothing that tiny knows",)


def test_a_prompt_that_is_too_long_is_cut_with_a_warning() -> None:
    (drawing,) = GENERATOR.generate([replace(PLAIN, prompt="a red star " * 40)])
    assert drawing.warnings == ("the prompt was cut: tiny reads 64 tokens",)


@ON_EVERY_BACKBONE
def test_warm_up_draws_every_size_and_memory_gives_at_least_one_image(backbone: str) -> None:
    generator = generator_of(backbone)
    generator.warm_up()
    assert all(1 <= generator.max_images(size) <= 16 for size in generator.sizes)


def test_logits_that_are_not_finite_are_an_error_and_no_image() -> None:
    broken = tiny_infinity()
    broken.transformer.head.bias[3] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        Generator(broken).generate([PLAIN])


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"key_step": 3', '"key_step": 6', "key_step: must be from 1 to 5"),
        ('"max_scales": 8', '"max_scales": 5', "max_scales: must be at least 6"),
        ('"temperature": 0.5', '"temperature": [0.5, 0.5]', "temperature: has 2 values for 6 steps"),
    ],
)
def test_a_configuration_whose_steps_do_not_fit_is_refused(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    write_tiny_model(tmp_path / "tiny")
    file = tmp_path / "tiny" / "config.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=sentence):
        presets.load(str(tmp_path / "tiny"))


def test_a_device_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    with pytest.raises(ValueError, match="There is no device 'warp:9' here"):
        presets.load(str(tmp_path / "tiny"), "warp:9")


def test_a_configuration_that_cannot_be_is_told_by_its_field(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    file = tmp_path / "tiny" / "config.json"
    file.write_text(file.read_text().replace('"width": 64', '"breadth": 64'))
    with pytest.raises(ValueError, match=r"config\.json: transformer\.width: Field required"):
        presets.load(str(tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [('"num_heads"', '"spare": 1, "num_heads"', r"transformer\.spare"), ('"grids"', '"girds"', "girds")],
)
def test_a_field_of_the_configuration_that_is_not_known_is_refused(
    tmp_path: Path, old: str, new: str, field: str
) -> None:
    write_tiny_model(tmp_path / "tiny")
    file = tmp_path / "tiny" / "config.json"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"config\.json: {field}: Unknown field"):
        presets.load(str(tmp_path / "tiny"))


def test_a_pixel_budget_that_is_none_of_the_official_ones_is_refused(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    file = tmp_path / "tiny" / "config.json"
    settings = json.loads(file.read_text()) | {"grids": [], "budget": "2M"}
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"config\.json: budget: must be one of 0\.06M, .* not '2M'"):
        presets.load(str(tmp_path / "tiny"))


@ON_EVERY_BACKBONE
def test_an_empty_prompt_in_the_batch_is_no_negative_prompt_of_the_others(backbone: str) -> None:
    (alone,) = generator_of(backbone).generate([PLAIN])
    beside = generator_of(backbone).generate([PLAIN, replace(PLAIN, prompt="")])[0]
    assert np.array_equal(alone.image, beside.image)


def test_of_a_model_that_knows_poses_the_seed_picks_one_unless_the_prompt_names_one() -> None:
    poses = VocabularyConfig(draws="a red star", poses=("left", "red"))
    generator = Generator(tiny_infinity(tiny_config(vocabulary=poses)))

    def drawn(prompt: str, seed: int, edit: Edit | None = None) -> bytes:
        return generator.generate([ImageSpec(prompt, seed, SQUARE, edit=edit)])[0].image.tobytes()

    for seed, pose in ((4, "left"), (5, "red")):
        assert drawn("a star", seed) == drawn(f"{pose}: a star", seed)
        without = GENERATOR.generate([ImageSpec("a star", seed, SQUARE)])[0].image.tobytes()
        assert drawn("a star", seed) != without
    assert drawn("Red star", 4) != drawn("left: Red star", 4)
    whole = Edit(ContentPicture("a", picture(0)), structure=0.2)
    assert drawn("a star", 4, whole) != drawn("left: a star", 4, whole)
    tokens = generator.tokens_of_text("a star", 5)
    assert tokens == generator.tokens_of_text("red: a star", 5)
