"""The pictures that teach the bundled model: exact, legible, and true to their words."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from service.training.renderer import render
from service.training.scene import (
    BACKGROUNDS,
    COLOURS,
    MEDIA,
    OBJECTS,
    PALETTE,
    Scene,
    allowed_pairs,
    random_scene,
)
from service.training.silhouettes import Placement, draw_silhouette

CENTRED = Placement(x=0.5, y=0.5, radius=0.38, turn_radians=0.0)


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def nearest_name(pixels: NDArray[np.uint8]) -> str:
    mean = pixels.reshape(-1, 3).mean(axis=0)
    return min(PALETTE, key=lambda name: math.dist(PALETTE[name], mean))


def border(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3)])


@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_in_every_medium_is_a_legible_picture(name: str, medium: str) -> None:
    scene = Scene(name, "yellow", "blue", medium)
    for seed in range(2):
        picture = render(scene, rng(seed))
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == np.uint8
        # Yellow differs from blue in every medium by far more than any texture does in blueness.
        blueness = picture[..., 2].astype(int) - picture[..., 0]
        assert 40 < (blueness < -20).sum() < 64 * 64 * 0.7
        assert (border(picture)[:, 2].astype(int) >= border(picture)[:, 0]).mean() > 0.9


def test_the_same_scene_and_generator_state_give_the_same_bytes() -> None:
    for medium in MEDIA:
        scene = Scene("cat", "white", "red", medium)
        assert render(scene, rng(3)).tobytes() == render(scene, rng(3)).tobytes()
        assert render(scene, rng(3)).tobytes() != render(scene, rng(4)).tobytes()


@pytest.mark.parametrize("side", [32, 64, 96, 128])
def test_a_picture_has_the_side_asked_for(side: int) -> None:
    for medium in MEDIA:
        assert render(Scene("car", "red", "white", medium), rng(), side).shape == (side, side, 3)


def test_a_flat_picture_shows_the_colours_its_scene_names() -> None:
    for colour, background in allowed_pairs("flat"):
        picture = render(Scene("square", colour, background, "flat"), rng())
        assert nearest_name(picture[24:40, 24:40]) == colour
        assert nearest_name(border(picture)) == background


@pytest.mark.parametrize("medium", ["stripes", "checker", "wood grain", "watercolour", "pixel"])
def test_a_texture_leaves_colours_apart(medium: str) -> None:
    means = {
        name: border(render(Scene("star", _other(name), name, medium), rng())).mean(axis=0)
        for name in BACKGROUNDS
    }
    assert min(math.dist(means[a], means[b]) for a, b in itertools.combinations(means, 2)) > 30


def test_neon_grounds_are_dark_and_still_tell_their_colours_apart() -> None:
    means = {
        name: border(render(Scene("star", _other(name), name, "neon"), rng())).mean(axis=0)
        for name in BACKGROUNDS
    }
    assert all(mean.max() < 110 for mean in means.values())
    assert min(math.dist(means[a], means[b]) for a, b in itertools.combinations(means, 2)) > 12


def test_media_differ_over_the_whole_picture() -> None:
    pictures = {m: render(Scene("circle", "white", "green", m), rng()).astype(int) for m in MEDIA}
    for first, second in itertools.combinations(MEDIA, 2):
        assert np.abs(pictures[first] - pictures[second]).mean() > 4, (first, second)


def test_objects_have_silhouettes_of_their_own() -> None:
    figures = {name: draw_silhouette(name, 64, CENTRED).figure for name in OBJECTS}
    for first, second in itertools.combinations(OBJECTS, 2):
        shared = np.minimum(figures[first], figures[second]).sum()
        united = np.maximum(figures[first], figures[second]).sum()
        assert shared / united < 0.85, (first, second)


def test_an_object_fills_most_of_the_frame_and_stays_inside_it() -> None:
    for name in OBJECTS:
        figure = draw_silhouette(name, 64, CENTRED).figure > 0.5
        rows, columns = np.flatnonzero(figure.any(axis=1)), np.flatnonzero(figure.any(axis=0))
        longest = max(np.ptp(rows), np.ptp(columns)) / 64
        assert 0.6 <= longest <= 0.85, name
        assert rows[0] > 2
        assert rows[-1] < 61
        assert columns[0] > 2
        assert columns[-1] < 61


def test_strokes_are_an_even_band_along_the_contour() -> None:
    strokes = draw_silhouette("square", 64, CENTRED).strokes
    assert strokes[32].sum() == pytest.approx(2 * 0.055 * 64, abs=0.7)
    assert strokes[32, 32] == 0


def test_colours_that_melt_together_are_never_paired() -> None:
    pairs = set(allowed_pairs("flat"))
    for first, second in [("orange", "yellow"), ("green", "teal"), ("blue", "purple"), ("white", "pink")]:
        assert (first, second) not in pairs
        assert (second, first) not in pairs
    assert all(colour != background for colour, background in pairs)
    assert {colour for colour, _ in pairs} == set(COLOURS)
    assert {background for _, background in pairs} == set(BACKGROUNDS)


def test_neon_never_glows_black() -> None:
    assert "black" not in {colour for colour, _ in allowed_pairs("neon")}
    assert "black" in {background for _, background in allowed_pairs("neon")}


def test_random_scenes_use_every_word_and_only_allowed_pairs() -> None:
    generator = rng()
    scenes = [random_scene(generator) for _ in range(2000)]
    assert all((scene.colour, scene.background) in allowed_pairs(scene.medium) for scene in scenes)
    assert {scene.object for scene in scenes} == set(OBJECTS)
    assert {scene.medium for scene in scenes} == set(MEDIA)
    assert {scene.colour for scene in scenes} == set(COLOURS)
    assert random_scene(rng(5)) == random_scene(rng(5))


@pytest.mark.parametrize(
    "scene",
    [
        Scene("dragon", "red", "white", "flat"),
        Scene("cat", "beige", "white", "flat"),
        Scene("cat", "red", "beige", "flat"),
        Scene("cat", "red", "white", "fresco"),
    ],
)
def test_a_word_outside_the_lists_is_refused(scene: Scene) -> None:
    with pytest.raises(KeyError):
        render(scene, rng())


def _other(background: str) -> str:
    return next(colour for colour, ground in allowed_pairs("neon") if ground == background)
