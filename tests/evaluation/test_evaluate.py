"""`atelier evaluate nano`: the judge, the protocol and its numbers, run on nano at a size of seconds."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.evaluation.evaluate import BASE, Evaluation, evaluate
from service.evaluation.fidelity import captioned_scenes, deviation
from service.evaluation.intervals import estimated_mean, share
from service.evaluation.judge import ATTRIBUTES, Judge, is_coloured, visible
from service.evaluation.references import (
    NAMED,
    Reference,
    load_references,
    named_reference,
    report_references,
    search_references,
    write_references,
)
from service.evaluation.results import save_results
from service.evaluation.stylisation import (
    VANISHED_BELOW,
    Configuration,
    draw,
    harmonic,
    palette_distances,
    style_pairs,
)
from service.evaluation.train_judge import accuracies, labels_of, make_references, train_judge
from service.model.engine.generator import Generator
from service.model.engine.quality import EXACT, Quality
from service.model.engine.types import ImageSpec, Method, Styling, WeightedStyle
from service.training.scene import MEDIA, Scene, held_out
from service.training.trainer import Compute, Session
from tests.support.nano import nano, nano_judge
from tests.support.sprites import tiny_sprites
from tests.support.tiny import tiny_generator

pytestmark = pytest.mark.slow


@pytest.fixture(name="nano")
def fixture_nano() -> Generator:
    return nano()


@pytest.fixture(name="judge")
def fixture_judge() -> Judge:
    return nano_judge()


@pytest.fixture(scope="module")
def found() -> Evaluation:
    stages: list[str] = []
    result = evaluate(nano(), nano_judge(), seed=1, num_images=32, num_pairs=12, say=stages.append)
    assert stages == ["prompts", "styles", "shortcuts", "edits"]
    return result


def rendered() -> tuple[list[Scene], np.ndarray]:
    references = report_references()
    pictures = np.stack([reference.picture for reference in references])
    return [reference.scene for reference in references], pictures


def test_the_judge_reads_held_out_renders(judge: Judge) -> None:
    scenes, renders = rendered()
    verdict = judge.judge(renders)
    assert len(verdict.scenes) == len(scenes) > 250
    for attribute, floor in {"object": 0.97, "background": 0.98, "medium": 0.98}.items():
        assert verdict.agrees(attribute, scenes).mean() >= floor, attribute
    assert verdict.agrees("colour", scenes)[is_coloured(scenes)].mean() >= 0.95
    assert verdict.lists(scenes).mean() >= 0.99
    assert all(scene.object == names[0] for scene, names in zip(verdict.scenes, verdict.likely, strict=True))


def test_the_judge_is_not_right_by_chance(judge: Judge) -> None:
    scenes, renders = rendered()
    turned = scenes[1:] + scenes[:1]
    for attribute in ATTRIBUTES:
        assert judge.judge(renders).agrees(attribute, turned).mean() < 0.4


def test_references_come_back_as_they_were_written_and_are_split_for_good(tmp_path: Path) -> None:
    kept = [Reference(reference.scene, reference.picture) for reference in report_references()[:21]]
    write_references(tmp_path / "some.webp", kept)
    again = load_references(tmp_path / "some.webp")
    assert [reference.scene for reference in again] == [reference.scene for reference in kept]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(again, kept, strict=True))
    reports, searches = (
        {r.picture.tobytes() for r in found} for found in (report_references(), search_references())
    )
    assert not reports & searches
    assert not {named_reference(name).picture.tobytes() for name in NAMED} & (reports | searches)
    assert {reference.scene.medium for reference in search_references()} == set(MEDIA)
    assert any(held_out(scene.object, scene.medium) for scene in rendered()[0])


def test_a_thing_in_its_own_colours_has_no_colour_to_learn() -> None:
    scenes = [Scene("cat", "", "white", "flat"), Scene("cat", "blue", "white", "flat")]
    assert labels_of(scenes, "colour").tolist() == [-1, ATTRIBUTES["colour"].index("blue")]
    assert is_coloured(scenes).tolist() == [False, True]


def test_held_out_captions_are_of_pairs_that_no_training_had() -> None:
    assert not any(held_out(scene.object, scene.medium) for scene in captioned_scenes(4, 200))
    assert all(held_out(scene.object, scene.medium) for scene in captioned_scenes(4, 50, held_out=True))


def test_seeds_deviate_by_what_differs_and_equal_pictures_by_nothing() -> None:
    pictures = np.zeros((2, 8, 4, 4, 3), np.uint8)
    pictures[1, ::2] = 255
    assert deviation(pictures).tolist() == [0, 0.5]


def test_training_a_judge_is_one_command_that_resumes(tmp_path: Path) -> None:
    tiny_sprites().save(tmp_path / "nano")
    run, weights = tmp_path / "run", tmp_path / "judge.safetensors"
    minutes = itertools.count()  # by each look at the clock
    session = Session(
        folder=run, compute=Compute(torch.device("cpu"), torch.float32), clock=lambda: 60.0 * next(minutes)
    )
    train_judge(session, tmp_path / "nano", weights, 20, 80)
    first = weights.read_bytes()
    train_judge(session, tmp_path / "nano", weights, 20, 80)
    assert weights.read_bytes() == first
    assert set(accuracies(run, tmp_path / "nano", weights, 20)) > set(ATTRIBUTES)
    make_references(run, tmp_path / "nano", tmp_path / "references.webp", 9)
    references = load_references(tmp_path / "references.webp")
    assert [reference.scene for reference in references[: len(NAMED)]] == list(NAMED.values())
    assert len(references) == len(NAMED) + 9


def test_a_render_is_visible_and_an_empty_picture_is_not() -> None:
    _, renders = rendered()
    assert visible(renders).min() > VANISHED_BELOW
    empty = np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in (0, 90, 255)])
    assert visible(empty).max() < 1e-6


def test_pairs_are_decided_by_their_seed_and_never_show_the_object_asked_for() -> None:
    pairs, again = style_pairs(1, 50), style_pairs(1, 50)
    assert all(a.picture.tobytes() == b.picture.tobytes() for a, b in zip(pairs, again, strict=True))
    assert all(pair.object != pair.reference.object for pair in pairs)
    assert style_pairs(2, 50)[0].seed != pairs[0].seed
    assert {pair.reference.medium for pair in pairs} == set(MEDIA)


def test_a_configuration_is_drawn_as_the_same_image_alone(nano: Generator) -> None:
    pairs = style_pairs(3, 5)
    chosen = Configuration(Method.PFB_SAC, 4, 0.3)
    drawn = draw(nano, pairs, [BASE, chosen, Configuration(Method.REP, 2)])
    pair, size = pairs[4], nano.default_size
    plain = ImageSpec(pair.prompt, pair.seed, size)
    style = (WeightedStyle(nano.extract_style(pair.picture, size, 4)),)
    styled = replace(plain, styling=Styling(style, alpha=0.3, method=Method.PFB_SAC, key_step=4))
    assert np.array_equal(drawn[BASE][4], nano.generate([plain])[0].image)
    assert np.array_equal(drawn[chosen][4], nano.generate([styled])[0].image)


def test_an_evaluation_has_every_table_and_leaves_its_files(
    found: Evaluation, nano: Generator, tmp_path: Path
) -> None:
    text = save_results(found, nano, tmp_path)
    for section in (
        "Image tokenizer",
        "Prompts",
        "Seeds",
        "Style",
        "Shortcuts",
        "elsewhere",
    ):
        assert section in text
    assert (tmp_path / "report.md").read_text() == text
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert (numbers["num_images"], numbers["num_pairs"]) == (32, 12)
    assert numbers["seeds"]["num_captions"] == 1
    assert numbers["headline"][0]["kept"]["low"] <= numbers["headline"][0]["kept"]["value"]
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_shortcuts_are_measured_against_the_exact_image(found: Evaluation, nano: Generator) -> None:
    exact, *others = found.trials
    assert (exact.shortcuts, exact.operations, exact.seconds.value, exact.bits) == (EXACT, 1.0, 1.0, 1.0)
    assert all(trial.operations < 1 and 0.3 < trial.bits < 1 for trial in others)
    assert all(difference.value == 0 for difference in exact.differences(exact.score).values())
    taken = {quality for trial in found.trials for quality in trial.qualities}
    assert taken == set(Quality)
    assert all(trial.bits == (1 + 4 + 9 + 25) / 103 for trial in others if trial.shortcuts.stop_after)


def test_a_style_shows_in_the_scores(found: Evaluation) -> None:
    base, configured = found.headline[BASE], found.headline[found.configured]
    assert configured.background.mean() > base.background.mean() + 0.4


def test_a_model_of_another_world_is_refused(judge: Judge) -> None:
    with pytest.raises(ValueError, match="knows only the world of nano"):
        evaluate(tiny_generator(), judge, seed=1, num_images=8, num_pairs=6, say=print)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_an_interval_of_a_share_holds_it_and_stays_in_bounds(hits: list[bool]) -> None:
    estimate = share(np.array(hits))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_more_samples_give_a_narrower_interval() -> None:
    few, many = share(np.arange(20) % 4 > 0), share(np.arange(2000) % 4 > 0)
    assert many.high - many.low < (few.high - few.low) / 5
    values = np.random.default_rng(0).normal(3, 1, 400)
    estimate = estimated_mean(values)
    assert estimate.low < 3 < estimate.high
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_the_harmonic_mean_is_of_object_and_style() -> None:
    columns = np.array([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=float)
    assert harmonic(columns) == pytest.approx(0.5)
    assert harmonic(np.zeros((3, 4))) == 0


def test_attributes_are_compared_one_by_one(judge: Judge) -> None:
    renders = rendered()[1][:1]
    verdict = judge.judge(renders)
    seen = verdict.scenes[0]
    other = Scene(seen.object, seen.colour, seen.background, next(m for m in MEDIA if m != seen.medium))
    assert verdict.agrees("object", [other]).all()
    assert not verdict.agrees("medium", [other]).any()


def test_palettes_are_compared_wherever_their_colours_are() -> None:
    renders = rendered()[1][:4]
    shuffled = np.random.default_rng(1).permutation(renders.reshape(4, -1, 3), axis=1).reshape(renders.shape)
    assert palette_distances(renders, shuffled).max() < 1e-9
    brighter = np.minimum(renders.astype(int) + 40, 255).astype(np.uint8)
    assert palette_distances(renders, brighter).min() > 5
