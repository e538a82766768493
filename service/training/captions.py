"""Captions: what a Scene shows, in the words of nano's vocabulary."""

from __future__ import annotations

import string

import numpy as np

from service.model.nano.words import SPELLINGS
from service.training.scene import COLOURS, MEDIA, OBJECTS, Scene

# How often a caption leaves a part out, so that each part is learnt alone and a style can fill the gap.
DROP_OBJECT, DROP_COLOUR, DROP_BACKGROUND, DROP_MEDIUM = 0.05, 0.25, 0.30, 0.40
# Rare enough that a head word stays the strongest spelling, frequent enough to test every synonym.
SYNONYM_SHARE = 0.2
# Heads that name nothing to draw: a prompt of these alone asks for anything at all.
FILLERS: tuple[str, ...] = ("background", "style", "picture", "drawn", "a", "on", "in", "of")
DRAWS = (
    f"one of {', '.join(OBJECTS)}, in {', '.join(COLOURS)}, on a background of such a colour, "
    f"as {', '.join(MEDIA)}: a red cat on a blue background, neon style"
)
"""What the model can draw, in a sentence's half."""
# Captions use these; the vocabulary also knows words that would read oddly here ("valentine", "christmas").
_NOUNS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "ball"),
    "square": ("box", "block"),
    "triangle": ("pyramid",),
    "house": ("home", "cottage", "cabin"),
    "tree": ("fir", "pine", "spruce"),
    "fish": ("goldfish",),
    "mug": ("cup", "teacup"),
    "car": ("automobile", "vehicle"),
    "flower": ("blossom", "daisy"),
    "cat": ("kitten", "kitty"),
}
_COLOURS: dict[str, tuple[str, ...]] = {
    head: tuple(SPELLINGS[head].split())
    for head in ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "black")
}
_NAMES: dict[str, tuple[str, ...]] = {
    "flat": ("plain style", "flat"),
    "outline": ("outlined", "a line drawing", "contour style"),
    "stripes": ("striped", "striped style", "a striped pattern"),
    "checker": ("checkered", "checkered style", "a chequered pattern", "checkerboard style"),
    "wood grain": ("wooden style", "wood style", "made of wood", "wooden"),
    "watercolour": ("watercolor style", "a watercolour painting", "watercolor painting", "painted"),
    "pixel": ("pixelated", "pixel art", "pixelart style", "mosaic style"),
    "neon": ("glowing", "glowing neon style", "neon glow"),
}


def words(text: str) -> list[str]:
    """Lower-case words of `text`; punctuation separates like a space."""
    return text.lower().translate(_PUNCTUATION).split()


def full_caption(scene: Scene) -> str:
    """Every part named by its head word: "a red star on a blue background, neon style"."""
    thing = _with_article(f"{scene.colour} {scene.object}")
    return f"{thing} on {_with_article(scene.background)} background, {scene.medium} style"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption in one of several forms, parts left out as the DROP_ shares say, sometimes with synonyms."""
    keeps_object, keeps_colour, keeps_background, keeps_medium = rng.random(4) >= (
        DROP_OBJECT,
        DROP_COLOUR,
        DROP_BACKGROUND,
        DROP_MEDIUM,
    )
    text = _spelt(scene.colour, _COLOURS, rng) if keeps_colour else ""
    if keeps_object:
        text = _with_opening(f"{text} {_spelt(scene.object, _NOUNS, rng)}".strip(), rng)
    if keeps_background:
        text = f"{text} {_on_background(_spelt(scene.background, _COLOURS, rng), rng)}".strip()
    if keeps_medium:
        text = _with_medium(text, _medium_name(scene.medium, rng), rng)
    return text or "a picture"


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


def _with_opening(thing: str, rng: np.random.Generator) -> str:
    forms = (
        _with_article(thing),
        _with_article(thing),
        _with_article(thing),
        thing,
        f"the {thing}",
        f"a picture of {_with_article(thing)}",
        f"a drawing of {_with_article(thing)}",
    )
    return forms[rng.integers(len(forms))]


def _on_background(colour: str, rng: np.random.Generator) -> str:
    forms = (
        f"on {_with_article(colour)} background",
        f"on {_with_article(colour)} background",
        f"on {colour}",
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


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
