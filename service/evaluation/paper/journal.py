"""The journal of a run: each image's seed and scores as JSON lines, kept batch by batch.

A batch's lines are written together and only once its image files are, so that a run that was killed is
resumed at a batch, and the same batches, drawn again, give the same lines. Times are in a file of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.evaluation.paper.protocol import Cell

SCORES, TIMES, RUN, IMAGES = "scores.jsonl", "times.jsonl", "run.json", "images"
PLACES = frozenset(("arm", "batch", "of", "row", "column", "prompt", "style", "seed", "image"))
"""What a record says of an image besides its scores."""
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """What is drawn and scored at once: some cells by one arm."""

    arm: str
    index: int
    num_images: int


class Journal:
    """One run's folder."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Opens, or begins. ValueError when the folder holds a run of something else."""
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._agree(identity)
        self.records = _whole_batches(folder / SCORES)
        _rewrite(folder / TIMES, read_records(folder / TIMES))
        self._done = {(record["arm"], record["batch"]) for record in self.records}

    def has(self, batch: Batch) -> bool:
        return (batch.arm, batch.index) in self._done

    def add(
        self,
        batch: Batch,
        cells: Sequence[Cell],
        images: Sequence[NDArray[np.uint8]],
        scores: Sequence[Mapping[str, float]],
        seconds: Mapping[str, float],
    ) -> None:
        """Keep a batch, image files first."""
        records = []
        for cell, image, of_image in zip(cells, images, scores, strict=True):
            file = image_file(batch.arm, cell.row, cell.column)
            _save(self.folder / file, image)
            place = {"arm": batch.arm, "batch": batch.index, "of": batch.num_images}
            cell_place = {"row": cell.row, "column": cell.column, "prompt": cell.prompt}
            records.append(
                {
                    **place,
                    **cell_place,
                    "style": cell.style.name,
                    "seed": cell.seed,
                    "image": file,
                    **of_image,
                }
            )
        times = {"arm": batch.arm, "batch": batch.index, "num_images": batch.num_images, **seconds}
        _append(self.folder / TIMES, [times])
        _append(self.folder / SCORES, records)
        self.records += records
        self._done.add((batch.arm, batch.index))

    def times(self) -> list[Record]:
        """Of the last run of each batch."""
        found = read_records(self.folder / TIMES)
        return list({(record["arm"], record["batch"]): record for record in found}.values())

    def _agree(self, identity: Mapping[str, Any]) -> None:
        file = self.folder / RUN
        if not file.exists():
            _replace(file, json.dumps(identity, indent=1) + "\n")
            return
        found = json.loads(file.read_text())
        changed = [name for name, value in identity.items() if found.get(name) != value]
        if changed:
            name = changed[0]
            raise ValueError(
                f"{self.folder} holds another run: its {name} is {found.get(name)}, not {identity[name]}. "
                "Name another --out, or delete that folder."
            )


def image_file(arm: str, row: int, column: int) -> str:
    return f"{IMAGES}/{arm}/{row:03}-{column:02}.webp"


def read_image(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _save(file: Path, image: NDArray[np.uint8]) -> None:
    """Without loss: what was scored can be scored again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, "WEBP", lossless=True)


def _append(file: Path, records: Sequence[Record]) -> None:
    with file.open("a") as opened:
        opened.write("".join(json.dumps(record) + "\n" for record in records))
        opened.flush()
        os.fsync(opened.fileno())


def read_records(file: Path) -> list[Record]:
    """The records of a file, up to the first line that is cut off."""
    records = []
    for line in file.read_text().splitlines(keepends=True) if file.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith("\n"):
            records.pop()
    return records


def _whole_batches(file: Path) -> list[Record]:
    """The records of complete batches; what a killed run left of another is taken out of the file."""
    found = read_records(file)
    numbers = [(record["arm"], record["batch"]) for record in found]
    sizes: dict[tuple[str, int], int] = {}
    for number in numbers:
        sizes[number] = sizes.get(number, 0) + 1
    whole = [record for record, number in zip(found, numbers, strict=True) if sizes[number] == record["of"]]
    _rewrite(file, whole)
    return whole


def _rewrite(file: Path, records: Sequence[Record]) -> None:
    """Leave nothing but these in the file."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    if file.exists() and file.read_text() != text:
        _replace(file, text)


def _replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)
