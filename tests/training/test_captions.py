"""The words of the bundled model: closed, shared between spellings, and dropped as often as promised."""

import numpy as np
import pytest

from service.model.nano.words import VOCABULARY
from service.training.captions import caption, full_caption, words
from service.training.scene import BACKGROUNDS, COLOURS, MEDIA, OBJECTS, Scene, random_scene


def tokens(text: str) -> list[str]:
    return [VOCABULARY[word] for word in words(text)]


def test_a_full_caption_names_every_part() -> None:
    assert full_caption(Scene("star", "red", "blue", "neon")) == "a red star on a blue background, neon style"
    assert (
        full_caption(Scene("cat", "orange", "orange", "wood grain"))
        == "an orange cat on an orange background, wood grain style"
    )


def test_every_word_of_every_caption_is_known() -> None:
    generator = np.random.default_rng(0)
    for _ in range(3000):
        scene = random_scene(generator)
        text = caption(scene, generator)
        assert text == text.strip()
        unknown = {word for word in words(text) + words(full_caption(scene)) if word not in VOCABULARY}
        assert not unknown, text


def test_a_caption_never_names_another_object_or_medium() -> None:
    generator = np.random.default_rng(1)
    mediums = {VOCABULARY[words(medium)[0]] for medium in MEDIA}
    for _ in range(2000):
        scene = random_scene(generator)
        said = set(tokens(caption(scene, generator)))
        assert said & set(OBJECTS) <= {scene.object}
        assert said & mediums <= {VOCABULARY[words(scene.medium)[0]]}
        assert said & set(COLOURS) <= {scene.colour, scene.background}


def test_parts_are_left_out_as_often_as_promised() -> None:
    generator = np.random.default_rng(2)
    scene = Scene("house", "yellow", "purple", "neon")
    captions = [tokens(caption(scene, generator)) for _ in range(4000)]
    shares = [
        np.mean([part not in said for said in captions]) for part in ("house", "yellow", "purple", "neon")
    ]
    assert shares == pytest.approx([0.05, 0.25, 0.30, 0.40], abs=0.03)


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
    assert 0.7 < cats.count("cat") / len(cats) < 0.95


@pytest.mark.parametrize(
    ("spelling", "head"),
    [
        ("kitten", "cat"),
        ("cats", "cat"),
        ("automobile", "car"),
        ("cup", "mug"),
        ("crimson", "red"),
        ("turquoise", "teal"),
        ("striped", "stripes"),
        ("checkered", "checker"),
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
    heads = [*OBJECTS, *COLOURS, *(words(medium)[0] for medium in MEDIA), "background", "style", "a"]
    assert set(BACKGROUNDS) == set(COLOURS)
    assert len({VOCABULARY[head] for head in heads}) == len(heads)
    assert len(set(VOCABULARY.values())) < 60


def test_every_spelling_is_a_single_lower_case_word() -> None:
    assert all(words(spelling) == [spelling] for spelling in VOCABULARY)


def test_words_ignores_case_and_punctuation() -> None:
    assert words("A Red, star-on:blue!  (neon)") == ["a", "red", "star", "on", "blue", "neon"]
    assert words("") == []
