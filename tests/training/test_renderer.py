"""The pictures that teach the bundled model: exact, legible, and true to their words."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.training.renderer import Renderer
from service.training.scene import (
    BACKGROUNDS,
    COLOURS,
    MEDIA,
    OBJECTS,
    PALETTE,
    PLACEMENTS,
    POSES,
    RECOLOURED,
    Scene,
    allowed_pairs,
    held_out,
    random_scene,
)
from service.training.sprites import SPRITE_SIDE, Sprites
from tests.support.sprites import tiny_sprites


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def render(scene: Scene, generator: np.random.Generator, side: int = 64) -> NDArray[np.uint8]:
    return Renderer(tiny_sprites(), side).render(scene, generator)


def nearest_name(pixels: NDArray[np.uint8]) -> str:
    mean = pixels.reshape(-1, 3).mean(axis=0)
    return min(PALETTE, key=lambda name: math.dist(PALETTE[name], mean))


def border(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3)])


@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("name", OBJECTS[::20])
def test_every_thing_in_every_medium_is_a_legible_picture(name: str, medium: str) -> None:
    for seed in range(3):
        picture = render(Scene(name, "yellow", "blue", medium), rng(seed))
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
        around_the_eye = np.concatenate([picture[20:25, 24:40], picture[40:44, 24:40]])
        assert nearest_name(around_the_eye) == colour
        assert nearest_name(border(picture)) == background


def test_a_thing_without_a_colour_keeps_its_own_and_another_keeps_its_details() -> None:
    own, blue = (render(Scene("square", colour, "white", "flat"), rng(2)) for colour in ("", "blue"))
    sprite = tiny_sprites().flat[OBJECTS.index("square")]
    assert math.dist(sprite[30, 64, :3], own[22, 32]) < 12
    inside = blue[16:44, 16:44].reshape(-1, 3).astype(int)  # the body and somewhere in it the eye
    assert np.abs(inside - inside[0]).max() > 15
    assert (inside.argmax(axis=1) == 2).all()


def test_a_thing_of_its_backgrounds_colour_has_a_rim() -> None:
    index = OBJECTS.index("square")
    sprites = tiny_sprites()
    red = np.zeros((1, SPRITE_SIDE, SPRITE_SIDE, 4), np.uint8)
    red[..., :3], red[..., 3] = PALETTE["red"], sprites.flat[index, ..., 3]
    alone = Sprites(("square",), red, sprites.ink[index : index + 1], sprites.clay[index : index + 1])
    picture = Renderer(alone).render(Scene("square", "", "red", "flat"), rng())
    assert (np.abs(picture.astype(int) - picture[0, 0]).max(axis=-1) > 60).sum() > 50


@pytest.mark.parametrize("medium", ["ink", "clay", "stripes", "wood grain", "watercolour", "pixel"])
def test_a_texture_leaves_colours_apart(medium: str) -> None:
    means = {
        name: render(Scene("star", _other(name), name, medium), rng())[:16].mean(axis=(0, 1))
        for name in BACKGROUNDS
    }
    assert min(math.dist(means[a], means[b]) for a, b in itertools.combinations(means, 2)) > 20


def test_neon_grounds_are_dark_and_still_tell_their_colours_apart() -> None:
    means = {
        name: border(render(Scene("star", _other(name), name, "neon"), rng())).mean(axis=0)
        for name in BACKGROUNDS
    }
    assert all(mean.max() < 150 for mean in means.values())
    assert min(math.dist(means[a], means[b]) for a, b in itertools.combinations(means, 2)) > 12


def test_media_differ_over_the_whole_picture() -> None:
    pictures = {m: render(Scene("circle", "white", "green", m), rng()).astype(int) for m in MEDIA}
    for first, second in itertools.combinations(MEDIA, 2):
        assert np.abs(pictures[first] - pictures[second]).mean() > 4, (first, second)


def test_poses_differ_by_place_and_mirror_and_stay_inside_the_frame() -> None:
    def drawn(pose: str, seed: int = 1) -> NDArray[np.uint8]:
        return render(Scene("cat", "black", "white", "flat", pose), rng(seed))

    centres = {pose: np.argwhere(drawn(pose)[..., 0] < 128).mean(axis=0) for pose in POSES}
    assert centres["left"][1] < centres["centre"][1] < centres["right"][1]
    assert _nearest(drawn("left")[:, ::-1], [drawn(pose) for pose in POSES]) != POSES.index("left")
    for pose in POSES:
        border = np.concatenate([drawn(pose)[[0, -1]].ravel(), drawn(pose)[:, [0, -1]].ravel()])
        assert border.min() > 200
    for placement in PLACEMENTS.values():
        assert abs(placement.x) + placement.size / 2 <= 0.5
        assert abs(placement.y) + placement.size / 2 <= 0.5
    assert {placement.mirrored for placement in PLACEMENTS.values()} == {False, True}
    of_any_pose = [_nearest(drawn("", seed), [drawn(pose) for pose in POSES]) for seed in range(20)]
    assert set(of_any_pose) == set(range(len(POSES)))


def _nearest(picture: NDArray[np.uint8], others: list[NDArray[np.uint8]]) -> int:
    return int(np.argmin([np.abs(picture.astype(int) - other).mean() for other in others]))


def test_sprites_are_cut_and_centred_and_come_back_from_their_folder(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (200, 300))
    picture.paste((10, 200, 30, 255), (20, 40, 60, 140))
    sprites = Sprites.of(["bar"], [picture], [picture], [picture])
    alpha = sprites.flat[0, ..., 3] > 128
    assert alpha.sum(axis=0).max() == SPRITE_SIDE
    assert np.flatnonzero(alpha.any(axis=0)).mean() == pytest.approx(SPRITE_SIDE / 2 - 0.5, abs=1)
    assert not Sprites.exist(tmp_path)
    sprites.save(tmp_path)
    again = Sprites.load(tmp_path)
    assert (again.names, again.index("bar")) == (("bar",), 0)
    assert np.array_equal(again.clay, sprites.clay)
    with pytest.raises(ValueError, match="picture is empty"):
        Sprites.of(["air"], *[[Image.new("RGBA", (9, 9))]] * 3)


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
    scenes = [random_scene(generator) for _ in range(4000)]
    coloured = [scene for scene in scenes if scene.colour]
    assert all((scene.colour, scene.background) in allowed_pairs(scene.medium) for scene in coloured)
    assert len(coloured) / len(scenes) == pytest.approx(RECOLOURED, abs=0.03)
    assert {scene.object for scene in scenes} == set(OBJECTS)
    assert {scene.medium for scene in scenes} == set(MEDIA)
    assert {scene.colour for scene in coloured} == set(COLOURS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert random_scene(rng(5)) == random_scene(rng(5))


def test_a_tenth_of_the_pairs_of_thing_and_medium_is_held_out_for_good() -> None:
    pairs = [held_out(name, medium) for name in OBJECTS for medium in MEDIA]
    assert 0.08 < np.mean(pairs) < 0.12
    generator = rng()
    for only in (True, False):
        scenes = [random_scene(generator, held_out=only) for _ in range(500)]
        assert {held_out(scene.object, scene.medium) for scene in scenes} == {only}
    anything = [random_scene(generator, held_out=None) for _ in range(500)]
    assert {held_out(scene.object, scene.medium) for scene in anything} == {True, False}


@pytest.mark.parametrize(
    "scene",
    [
        Scene("quokka", "red", "white", "flat"),
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
