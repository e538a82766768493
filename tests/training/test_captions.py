"""The words of the bundled model: closed, shared between spellings, and dropped as often as promised."""

import numpy as np
import pytest

from service.model.nano.words import THINGS, VOCABULARY, Thing, plural
from service.training.captions import (
    DROP_BACKGROUND,
    DROP_COLOUR,
    DROP_MEDIUM,
    DROP_OBJECT,
    DROP_POSE,
    caption,
    full_caption,
    words,
)
from service.training.recipe import CONFIG
from service.training.scene import BACKGROUNDS, COLOURS, MEDIA, OBJECTS, POSES, Scene, random_scene


def tokens(text: str) -> list[str]:
    return [VOCABULARY[word] for word in words(text)]


def test_a_full_caption_names_every_part() -> None:
    assert full_caption(Scene("star", "red", "blue", "neon")) == "a red star on a blue background, neon style"
    assert (
        full_caption(Scene("cat", "orange", "orange", "wood grain"))
        == "an orange cat on an orange background, wood grain style"
    )
    assert full_caption(Scene("owl", "", "red", "clay")) == "an owl on a red background, clay style"
    assert (
        full_caption(Scene("hot dog", "", "red", "ink"), article=False)
        == "hot dog on red background, ink style"
    )
    assert full_caption(Scene("scissors", "", "red", "ink")) == "scissors on a red background, ink style"


def test_every_word_of_every_caption_is_known() -> None:
    generator = np.random.default_rng(0)
    for _ in range(3000):
        scene = random_scene(generator)
        text = caption(scene, generator)
        assert text == text.strip()
        unknown = {word for word in words(text) + words(full_caption(scene)) if word not in VOCABULARY}
        assert not unknown, text


def test_a_caption_never_names_another_thing_or_medium() -> None:
    generator = np.random.default_rng(1)
    mediums = {VOCABULARY[words(medium)[0]] for medium in MEDIA}
    alone = {name for name in OBJECTS if " " not in name} - {"orange"}
    for _ in range(2000):
        scene = random_scene(generator)
        own = {VOCABULARY[word] for word in words(scene.object)}
        said = set(tokens(caption(scene, generator)))
        assert said & alone <= own | _synonyms(scene.object), scene
        assert said & mediums - own <= {VOCABULARY[words(scene.medium)[0]]}
        assert said & set(COLOURS) - own <= {scene.colour, scene.background}


def _synonyms(name: str) -> set[str]:
    """And the plural: "magnifying glasses" are no glasses."""
    (thing,) = [thing for thing in THINGS if thing.name == name]
    return {VOCABULARY[word] for word in (*thing.synonyms, *thing.plural.split())}


def test_parts_are_left_out_as_often_as_promised() -> None:
    generator = np.random.default_rng(2)
    scene = Scene("house", "yellow", "purple", "neon")
    captions = [tokens(caption(scene, generator)) for _ in range(4000)]
    shares = [
        np.mean([part not in said for said in captions]) for part in ("house", "yellow", "purple", "neon")
    ]
    assert shares == pytest.approx([DROP_OBJECT, DROP_COLOUR, DROP_BACKGROUND, DROP_MEDIUM], abs=0.03)


def test_captions_name_the_pose_nine_times_in_ten_most_often_as_the_engine_does() -> None:
    generator = np.random.default_rng(7)
    said = [caption(Scene("cat", "", "white", "flat", "left"), generator) for _ in range(2000)]
    assert np.mean(["left" in words(text) for text in said]) == pytest.approx(1 - DROP_POSE, abs=0.03)
    assert not any("right" in words(text) or "centre" in words(text) for text in said)
    assert CONFIG.vocabulary is not None
    posed = CONFIG.vocabulary.posed("a cat", POSES.index("left"))
    assert posed == "left: a cat"
    assert np.mean([text.startswith("left: ") for text in said]) > 0.5
    assert any(text.startswith("on the left, ") for text in said)
    assert any(text.endswith(", on the left") for text in said)


def test_captions_vary_and_repeat_with_the_generator_state() -> None:
    scene = Scene("mug", "teal", "black", "watercolour")
    generator = np.random.default_rng(3)
    # Counted in tokens, so that it is the wording that varies and not only the spelling.
    assert len({tuple(tokens(caption(scene, generator))) for _ in range(200)}) > 80
    assert caption(scene, np.random.default_rng(4)) == caption(scene, np.random.default_rng(4))


def test_head_words_dominate_their_synonyms() -> None:
    generator = np.random.default_rng(5)
    scene = Scene("cat", "red", "white", "flat")
    said = [word for _ in range(1000) for word in words(caption(scene, generator))]
    cats = [word for word in said if VOCABULARY[word] == "cat"]
    assert 0.6 < cats.count("cat") / len(cats) < 0.9


@pytest.mark.parametrize(
    ("spelling", "head"),
    [
        ("kitten", "cat"),
        ("cats", "cat"),
        ("automobile", "car"),
        ("cup", "mug"),
        ("puppies", "dog"),
        ("wolves", "wolf"),
        ("outline", "ink"),
        ("sketch", "ink"),
        ("crimson", "red"),
        ("turquoise", "teal"),
        ("striped", "stripes"),
        ("wooden", "wood"),
        ("grain", "wood"),
        ("watercolor", "watercolour"),
        ("painting", "watercolour"),
        ("pixelated", "pixel"),
        ("pixelart", "pixel"),
        ("glowing", "neon"),
        ("an", "a"),
    ],
)
def test_synonyms_and_plurals_share_a_token_with_their_head_word(spelling: str, head: str) -> None:
    assert VOCABULARY[spelling] == VOCABULARY[head] == head


def test_parts_of_a_scene_never_share_a_token() -> None:
    heads = [*COLOURS, *(words(medium)[0] for medium in MEDIA), "background", "style", "a"]
    assert set(BACKGROUNDS) == set(COLOURS)
    assert len({VOCABULARY[head] for head in heads}) == len(heads)
    things = {tuple(tokens(name)) for name in OBJECTS}
    assert len(things) == len(OBJECTS)
    assert not things & {(VOCABULARY[head],) for head in heads}


def test_things_have_plurals_and_the_twelve_of_the_first_nano_are_among_them() -> None:
    found = [
        Thing(name, name, ()).plural for name in ("fox", "cherry", "hot dog", "scissors", "mouse", "key")
    ]
    assert found == ["foxes", "cherries", "hot dogs", "scissors", "mice", "keys"]
    assert plural("sheep") == "sheep"
    twelve = "circle square triangle star heart house tree fish mug car flower cat"
    assert set(twelve.split()) < set(OBJECTS)
    assert len(OBJECTS) > 200


def test_captions_come_with_and_without_articles_in_the_plural_and_in_any_order() -> None:
    generator = np.random.default_rng(6)
    said = [caption(Scene("fox", "", "blue", "neon"), generator) for _ in range(1500)]
    assert any(text.startswith("a fox") for text in said)
    assert any(text.startswith("fox") for text in said)
    assert any("foxes" in text for text in said)
    assert any(text.find("blue") < text.find("fox") for text in said if "blue" in text and "fox" in text)
    assert any(text.startswith("neon") for text in said)


def test_every_spelling_is_a_single_lower_case_word() -> None:
    assert all(words(spelling) == [spelling] for spelling in VOCABULARY)


def test_words_ignores_case_and_punctuation() -> None:
    assert words("A Red, star-on:blue!  (neon)") == ["a", "red", "star", "on", "blue", "neon"]
    assert words("") == []
