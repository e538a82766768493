"""Renders of nano's world that ship with its judge: no training saw them, and nothing need be fetched.

`python -m service.evaluation.train_judge` writes them. They are style images for the reports, pictures to
edit, and what the image tokenizer is measured on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.training.scene import Scene

FILE = Path(__file__).parent / "weights" / "references.webp"  # scenes are in a .json beside it
# By name: what the sample sheets show. They come before all others, and no report uses them.
NAMED: dict[str, Scene] = {
    "neon": Scene("parrot", "", "black", "neon"),
    "wood": Scene("apple", "orange", "teal", "wood grain"),
    "stripes": Scene("butterfly", "yellow", "purple", "stripes"),
    "watercolour": Scene("dolphin", "", "yellow", "watercolour"),
    "car": Scene("car", "orange", "teal", "flat"),
    "cat": Scene("cat", "blue", "green", "neon"),
    "house": Scene("house", "purple", "orange", "wood grain"),
}
_COLUMNS, _SIDE = 16, 64


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A scene and its render, RGB [64, 64, 3]."""

    scene: Scene
    picture: NDArray[np.uint8]


def report_references() -> tuple[Reference, ...]:
    """Three quarters of the unnamed ones: for all that is reported."""
    unnamed = load_references(FILE)[len(NAMED) :]
    return unnamed[: len(unnamed) * 3 // 4]


def search_references() -> tuple[Reference, ...]:
    """The others: for choosing a default, so that no report is of pictures that it was chosen on."""
    unnamed = load_references(FILE)[len(NAMED) :]
    return unnamed[len(unnamed) * 3 // 4 :]


def named_reference(name: str) -> Reference:
    return load_references(FILE)[list(NAMED).index(name)]


def write_references(file: Path, references: Sequence[Reference]) -> None:
    """One lossless picture of all of them, row by row, and their scenes beside it."""
    rows = -(-len(references) // _COLUMNS)
    sheet = np.zeros((rows * _SIDE, _COLUMNS * _SIDE, 3), np.uint8)
    for index, reference in enumerate(references):
        top, left = index // _COLUMNS * _SIDE, index % _COLUMNS * _SIDE
        sheet[top : top + _SIDE, left : left + _SIDE] = reference.picture
    Image.fromarray(sheet).save(file, lossless=True, quality=100, method=6)
    scenes = [json.dumps(asdict(reference.scene)) for reference in references]
    file.with_suffix(".json").write_text("[\n" + ",\n".join(scenes) + "\n]\n")


@cache
def load_references(file: Path) -> tuple[Reference, ...]:
    """All of them, the named ones first."""
    with Image.open(file) as image:
        sheet = np.asarray(image.convert("RGB"))
    rows = sheet.reshape(-1, _SIDE, _COLUMNS, _SIDE, 3).swapaxes(1, 2)
    tiles = rows.reshape(-1, _SIDE, _SIDE, 3)
    scenes = json.loads(file.with_suffix(".json").read_text())
    return tuple(Reference(Scene(**scene), picture) for scene, picture in zip(scenes, tiles, strict=False))
