"""Captions: what a Scene shows, in the words of nano's vocabulary."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from service.model.nano.words import SPELLINGS, THINGS, VOCABULARY
from service.training.scene import COLOURS, MEDIA, POSES, Scene

# How often a caption leaves a part out, so that each part is learnt alone and a style can fill the gap.
DROP_OBJECT, DROP_COLOUR, DROP_BACKGROUND, DROP_MEDIUM, DROP_POSE = 0.04, 0.2, 0.25, 0.25, 0.1
# Rare enough that a head word stays the strongest spelling, frequent enough to test every synonym.
SYNONYM_SHARE = 0.15
# Heads that name nothing to draw: a prompt of these alone asks for anything at all.
FILLERS: tuple[str, ...] = ("background", "style", "picture", "drawn", *POSES, "a", "on", "in", "of")
_NOUNS: dict[str, tuple[str, ...]] = {
    thing.name: tuple(word for word in thing.synonyms if VOCABULARY[word] in (thing.name, word))
    for thing in THINGS
}
_PLURALS: dict[str, str] = {thing.name: thing.plural for thing in THINGS}
_ALWAYS_PLURAL = frozenset(thing.name for thing in THINGS if thing.is_plural)
_COLOURS: dict[str, tuple[str, ...]] = {
    head: tuple(SPELLINGS[head].split())
    for head in ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "black")
}
_NAMES: dict[str, tuple[str, ...]] = {
    "flat": ("plain style", "flat", "vector style"),
    "ink": ("outlined", "a line drawing", "a sketch", "outline style", "ink"),
    "clay": ("3d", "3d style", "made of clay", "clay", "plasticine style"),
    "neon": ("glowing", "glowing neon style", "neon glow", "neon"),
    "pixel": ("pixelated", "pixel art", "pixelart style", "mosaic style"),
    "watercolour": (
        "watercolor style",
        "a watercolour painting",
        "watercolor painting",
        "painted",
        "watercolour",
    ),
    "stripes": ("striped", "striped style", "a striped pattern"),
    "wood grain": ("wooden style", "wood style", "made of wood", "wooden"),
}


def draws(things: Sequence[str]) -> str:
    """What a model of these things can draw, in a sentence's half."""
    return (
        f"one of {', '.join(things)}, if you like in {', '.join(COLOURS)}, on a background of such a colour, "
        f"as {', '.join(MEDIA)}: a {things[0]} on a blue background, neon style"
    )


def words(text: str) -> list[str]:
    """Lower-case words of `text`; punctuation separates like a space."""
    return text.lower().translate(_PUNCTUATION).split()


def full_caption(scene: Scene, *, article: bool = True) -> str:
    """Every part named by its head word: "a red star on a blue background, neon style"."""
    thing = f"{scene.colour} {scene.object}".strip()
    if not article:
        return f"{thing} on {scene.background} background, {scene.medium} style"
    thing, background = _with_article(thing, scene.object), _with_article(scene.background)
    return f"{thing} on {background} background, {scene.medium} style"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption in one of many forms, parts left out as the DROP_ shares say, sometimes with synonyms."""
    keeps_object, keeps_colour, keeps_background, keeps_medium = rng.random(4) >= (
        DROP_OBJECT,
        DROP_COLOUR,
        DROP_BACKGROUND,
        DROP_MEDIUM,
    )
    thing = _spelt(scene.colour, _COLOURS, rng) if keeps_colour and scene.colour else ""
    if keeps_object:
        thing = _with_opening(f"{thing} {{}}".strip(), scene.object, rng)
    ground = _on_background(_spelt(scene.background, _COLOURS, rng), rng) if keeps_background else ""
    # The ground comes first now and then: what a word means must not depend on where it stands.
    first, second = (ground, thing) if rng.random() < 0.15 else (thing, ground)
    text = f"{first}{',' if first == ground and first and second else ''} {second}".strip()
    if keeps_medium:
        text = _with_medium(text, _medium_name(scene.medium, rng), rng)
    text = text or "a picture"
    return _with_pose(text, scene.pose, rng) if scene.pose and rng.random() >= DROP_POSE else text


_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "’“”–—", " "))


def _spelt(head: str, synonyms: dict[str, tuple[str, ...]], rng: np.random.Generator) -> str:
    others = synonyms.get(head, ())
    if others and rng.random() < SYNONYM_SHARE:
        return str(others[rng.integers(len(others))])
    return head


def _medium_name(medium: str, rng: np.random.Generator) -> str:
    if rng.random() < SYNONYM_SHARE:
        others = _NAMES[medium]
        return others[rng.integers(len(others))]
    return f"{medium} style"


def _with_opening(thing: str, name: str, rng: np.random.Generator) -> str:
    """`thing` has a gap for the noun: "red {}"."""
    one = thing.format(_spelt(name, _NOUNS, rng))
    article = _with_article(one, name)
    forms = (
        article,
        article,
        article,
        one,
        one,
        one,
        f"the {one}",
        f"a picture of {article}",
        f"a drawing of {article}",
        thing.format(_PLURALS[name]),
        f"two {thing.format(_PLURALS[name])}",
    )
    return forms[rng.integers(len(forms))]


def _on_background(colour: str, rng: np.random.Generator) -> str:
    forms = (
        f"on {_with_article(colour)} background",
        f"on {_with_article(colour)} background",
        f"on {colour}",
        f"on {colour} background",
        f"{colour} background",
        f"on {_with_article(colour)} backdrop",
        f"against {_with_article(colour)} background",
        f"with {_with_article(colour)} background",
    )
    return forms[rng.integers(len(forms))]


def _with_medium(text: str, name: str, rng: np.random.Generator) -> str:
    if not text:
        return name
    bare = name.removesuffix(" style")
    inside = f"{text} in {name}" if name.endswith("style") else f"{text}, {name}"
    drawn = f"{text} drawn in {bare}" if name.endswith("style") else f"{text}, {name}"
    forms = (f"{text}, {name}", f"{text}, {name}", inside, drawn, f"{name}, {text}", f"{bare}: {text}")
    return forms[rng.integers(len(forms))]


def _with_pose(text: str, pose: str, rng: np.random.Generator) -> str:
    placed = "in the centre" if pose == "centre" else f"on the {pose}"
    # The first is what the engine writes for a prompt that names no pose.
    forms = (f"{pose}: {text}",) * 5 + (f"{text}, {placed}", f"{placed}, {text}", f"{text}, {pose}")
    return forms[rng.integers(len(forms))]


def _with_article(phrase: str, noun: str = "") -> str:
    if noun in _ALWAYS_PLURAL and noun in phrase:
        return phrase
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
