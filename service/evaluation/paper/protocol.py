"""What is drawn: every prompt in every style, as in the paper (190 Parti prompts by 10 style images)."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import ServiceError
from service.evaluation.references import Reference, report_references
from service.media.images import read_picture
from service.training.captions import full_caption
from service.training.scene import MEDIA, OBJECTS, Scene

STYLES_FILE = "styles.json"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MAX_BYTES, _MAX_PIXELS = 64 * 2**20, 64_000_000
_NANO = 76  # a stream of seeds apart from those of trainings and other reports


@dataclass(frozen=True, slots=True, eq=False)
class Style:
    """A style image, and where they are known its style in words and what it shows."""

    name: str
    picture: NDArray[np.uint8]  # [h, w, 3] RGB
    words: str = ""  # such as "wood grain style"; what a prompt names the style by
    caption: str = ""  # what the picture shows, for measuring how much of that comes through
    scene: Scene | None = None  # of nano's world: what the judge compares with


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One prompt in one style, and another prompt and style: what a shuffled pairing compares with."""

    row: int  # of the prompt
    column: int  # of the style
    prompt: str
    style: Style
    seed: int
    other_prompt: str
    other_style: Style

    @property
    def worded(self) -> str:
        """The prompt with the style's words."""
        return with_words(self.prompt, self.style)


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """All prompts in all styles. A prompt has one seed, so that all its images share the content path."""

    prompts: tuple[str, ...]
    styles: tuple[Style, ...]
    seed: int = 1

    def __post_init__(self) -> None:
        if len(self.prompts) < 2 or len(self.styles) < 2:
            raise ValueError(
                f"{len(self.prompts)} prompts and {len(self.styles)} styles are too few: at least two of "
                "each are needed, since each image is also compared with another prompt and another style."
            )

    def cells(self) -> Iterator[Cell]:
        """Prompt by prompt."""
        for row, prompt in enumerate(self.prompts):
            for column, style in enumerate(self.styles):
                yield Cell(
                    row,
                    column,
                    prompt,
                    style,
                    self.seed + row,
                    self.prompts[(row + 1) % len(self.prompts)],
                    self.styles[(column + 1) % len(self.styles)],
                )

    @property
    def has_words(self) -> bool:
        return all(style.words for style in self.styles)

    @property
    def is_of_nano(self) -> bool:
        """Whether the judge knows what every style image shows."""
        return all(style.scene is not None for style in self.styles)

    @property
    def fingerprint(self) -> str:
        """16 hex characters over all that decides what is drawn and compared."""
        digest = hashlib.sha256(json.dumps([self.seed, self.prompts]).encode())
        for style in self.styles:
            digest.update(json.dumps([style.name, style.words, style.caption]).encode())
            digest.update(np.array(style.picture.shape).tobytes() + style.picture.tobytes())
        return digest.hexdigest()[:16]


def with_words(prompt: str, style: Style) -> str:
    return f"{prompt}, {style.words}"


def read_prompts(file: Path) -> tuple[str, ...]:
    """One prompt a line; of a .tsv or .csv, as PartiPrompts is published, the column `Prompt`.

    Empty lines and lines that begin with # are left out. ValueError, a sentence, for a file without prompts.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The prompts {file} cannot be read: {error}") from error
    if file.suffix.lower() in (".tsv", ".csv"):
        rows = csv.DictReader(text.splitlines(), delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        if "Prompt" not in (rows.fieldnames or ()):
            raise ValueError(
                f"{file} has no column Prompt; its columns are {', '.join(rows.fieldnames or ())}."
            )
        found = [(row["Prompt"] or "").strip() for row in rows]
    else:
        found = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    prompts = tuple(dict.fromkeys(filter(None, found)))
    if not prompts:
        raise ValueError(f"{file} has no prompts: write one a line.")
    return prompts


def read_styles(folder: Path) -> tuple[Style, ...]:
    """The pictures of a folder, by name, with the words and captions of its `styles.json`, if it has one.

    ValueError, a sentence, when there are none, or when the file does not fit them.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of style images.")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(f"{folder} has no style images: {', '.join(_SUFFIXES)}.")
    if len({file.stem for file in files}) < len(files):
        raise ValueError(f"{folder} has two pictures of one name; each style needs a name of its own.")
    about = _about(folder / STYLES_FILE, {file.name for file in files})
    found = []
    for file in files:
        of = about.get(file.name, {})
        found.append(Style(file.stem, _picture(file), of.get("words", ""), of.get("caption", "")))
    return tuple(found)


def _picture(file: Path) -> NDArray[np.uint8]:
    try:
        return read_picture(file.read_bytes(), max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS).pixels()
    except (OSError, ServiceError) as error:
        raise ValueError(f"{file} cannot be read as a picture: {error}") from error


def _about(file: Path, names: set[str]) -> dict[str, dict[str, str]]:
    """Words and caption of each picture: {"wood.png": {"words": "...", "caption": "..."}}."""
    if not file.is_file():
        return {}
    try:
        about = json.loads(file.read_text())
        assert isinstance(about, dict)
        entries = {
            str(name): {str(key): str(value) for key, value in of.items()} for name, of in about.items()
        }
    except (OSError, ValueError, AssertionError, AttributeError) as error:
        raise ValueError(
            f'{file} must look like {{"wood.png": {{"words": "wood grain style", "caption": "a circle"}}}}.'
        ) from error
    if unknown := set(entries) - names:
        raise ValueError(f"{file} names {', '.join(sorted(unknown))}, which {file.parent} does not have.")
    if keys := {key for of in entries.values() for key in of} - {"words", "caption"}:
        raise ValueError(f"{file} has {', '.join(sorted(keys))}; a style has words and caption.")
    return entries


def nano_protocol(
    num_prompts: int = 8,
    num_styles: int = 8,
    seed: int = 1,
    references: Sequence[Reference] | None = None,
    things: Sequence[str] = OBJECTS,
) -> Protocol:
    """Of nano's world: prompts that name one of `things`, and renders of them, a medium each in turn.

    No prompt's object is that of a style image: then leakage could not be told from what was asked for.
    The renders are those for reports, unless others are given; beyond all of them ValueError says so.
    """
    rng = np.random.default_rng([_NANO, seed])
    given = report_references() if references is None else references
    references = [reference for reference in given if reference.scene.object in things]
    if num_styles > len(references):
        raise ValueError(
            f"{num_styles} styles are too many: nano's world has {len(references)} style images."
        )
    chosen = _by_medium([references[index] for index in rng.permutation(len(references))])[:num_styles]
    shown = {reference.scene.object for reference in chosen}
    asked = [things[index] for index in rng.permutation(len(things)) if things[index] not in shown]
    if not asked:
        raise ValueError(
            f"{num_styles} styles show all of nano's {len(things)} things: none is left to ask for."
        )
    names = [asked[index % len(asked)] for index in range(num_prompts)]
    styles = [_nano_style(index, reference) for index, reference in enumerate(chosen)]
    return Protocol(tuple(map(_with_article, names)), tuple(styles), seed)


def _by_medium(references: Sequence[Reference]) -> list[Reference]:
    """In turn one of each medium, each medium's in the given order."""
    of_media = [[found for found in references if found.scene.medium == medium] for medium in MEDIA]
    rounds = itertools.zip_longest(*of_media)
    return [reference for chosen in rounds for reference in chosen if reference is not None]


def _nano_style(index: int, reference: Reference) -> Style:
    scene = reference.scene
    colour = f"in {scene.colour} " if scene.colour else ""
    words = f"{colour}on {_with_article(scene.background)} background, {scene.medium} style"
    name = f"{index + 1:02}-{scene.medium.replace(' ', '-')}"
    return Style(name, reference.picture, words, full_caption(scene), scene)


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
