"""Scores of images: CLIP's cosines as in the paper, what leaks, and in nano's world the judge's view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from service.evaluation.judge import Judge, visible
from service.evaluation.paper.clip import Clip, PictureModel, Vectors
from service.evaluation.paper.protocol import Cell, Style
from service.evaluation.stylisation import VANISHED_BELOW
from service.training.captions import words
from service.training.scene import OBJECTS, Scene

_STYLE_ATTRIBUTES = ("background", "medium")
Scores = Mapping[str, float]
_DIGITS = 6


@dataclass(eq=False)
class Scorer:
    """Scores images against their own cell, and against the cell's other prompt and style."""

    clip: Clip
    dino: PictureModel | None = None
    judge: Judge | None = None
    _known: dict[tuple[str, str], Vectors] = field(default_factory=dict)

    def score(self, cells: Sequence[Cell], images: Sequence[NDArray[np.uint8]]) -> list[Scores]:
        """One mapping an image, of one set of names."""
        columns = self._of_clip(cells, images)
        if self.dino is not None:
            found, styles = self.dino.images(images), [cell.style for cell in cells]
            columns["dino"] = cosines(found, self._styles(self.dino, styles))
        if self.judge is not None:
            columns |= judged(self.judge, cells, np.stack(images))
        return [
            {name: round(float(values[index]), _DIGITS) for name, values in columns.items()}
            for index in range(len(cells))
        ]

    def _of_clip(self, cells: Sequence[Cell], images: Sequence[NDArray[np.uint8]]) -> dict[str, Vectors]:
        clip, found = self.clip, self.clip.images(images)
        columns = {
            "txt": cosines(found, clip.texts([cell.prompt for cell in cells])),
            "img": cosines(found, self._styles(clip, [cell.style for cell in cells])),
            "other_txt": cosines(found, clip.texts([cell.other_prompt for cell in cells])),
            "other_img": cosines(found, self._styles(clip, [cell.other_style for cell in cells])),
        }
        if all(cell.style.words for cell in cells):
            columns["worded_txt"] = cosines(found, clip.texts([cell.worded for cell in cells]))
        if all(cell.style.caption for cell in cells):
            columns["caption_txt"] = cosines(found, clip.texts([cell.style.caption for cell in cells]))
        return columns

    def _styles(self, model: PictureModel, styles: Sequence[Style]) -> Vectors:
        for style in styles:
            if (known := (model.fingerprint, style.name)) not in self._known:
                self._known[known] = model.images([style.picture])[0]
        return np.stack([self._known[model.fingerprint, style.name] for style in styles])


def cosines(vectors: Vectors, others: Vectors) -> Vectors:
    """[things]: of unit vectors, pair by pair."""
    found: Vectors = (vectors * others).sum(1)
    return found


def judged(judge: Judge, cells: Sequence[Cell], images: NDArray[np.uint8]) -> dict[str, Vectors]:
    """Shares, 0 or 1 an image but for `style`, the mean of background and medium."""
    verdict = judge.judge(images)
    own = [_scene(cell.style) for cell in cells]
    other = [_scene(cell.other_style) for cell in cells]
    asked = [replace(scene, object=object_of(cell.prompt)) for scene, cell in zip(own, cells, strict=True)]
    others = [
        replace(scene, object=object_of(cell.other_prompt)) for scene, cell in zip(own, cells, strict=True)
    ]

    def agreement(attributes: Sequence[str], scenes: list[Scene]) -> Vectors:
        found = np.mean([verdict.agrees(name, scenes) for name in attributes], axis=0)
        return np.asarray(found, dtype=np.float32)

    return {
        "kept": agreement(["object"], asked),
        "other_kept": agreement(["object"], others),
        "leaked": agreement(["object"], own),
        "judged_style": agreement(_STYLE_ATTRIBUTES, own),
        "other_style": agreement(_STYLE_ATTRIBUTES, other),
        "vanished": (visible(images) < VANISHED_BELOW).astype(np.float32),
    }


def _scene(style: Style) -> Scene:
    assert style.scene is not None, "the judge compares with scenes of nano's world"
    return style.scene


def object_of(prompt: str) -> str:
    """The one object of nano's world that a prompt names. ValueError when it names none."""
    text = f" {' '.join(words(prompt))} "
    if named := [name for name in OBJECTS if f" {name} " in text]:
        return max(named, key=len)  # "christmas tree" and not its "tree"
    raise ValueError(f"{prompt!r} names none of nano's objects: {', '.join(OBJECTS)}.")
