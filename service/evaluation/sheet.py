"""An Evaluation as a sheet of pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.evaluation.evaluate import BASE, Evaluation
from service.evaluation.stylisation import Configuration

_LARGER = 2
_LABEL = 200  # pixels left of a row for its name


def contact_sheet(found: Evaluation) -> Image.Image:
    """References in the first row, then what each configuration makes of them."""
    rows: list[tuple[str, NDArray[np.uint8]]] = [
        ("reference", np.stack([pair.picture for pair in found.examples]))
    ]
    rows += [
        (_row_name(picture), pictures) for picture, pictures in sorted(found.pictures.items(), key=_order)
    ]
    side = 64 * _LARGER
    sheet = Image.new("RGB", (_LABEL + side * len(found.examples), side * len(rows) + 20), "white")
    pencil = ImageDraw.Draw(sheet)
    for column, pair in enumerate(found.examples):
        pencil.text((_LABEL + column * side + 4, 4), pair.prompt, fill="black")
    for index, (name, pictures) in enumerate(rows):
        pencil.text((4, 20 + index * side + side // 2), name, fill="black")
        strip = np.concatenate(list(pictures), axis=1).repeat(_LARGER, axis=0).repeat(_LARGER, axis=1)
        sheet.paste(Image.fromarray(strip), (_LABEL, 20 + index * side))
    return sheet


def _row_name(configuration: Configuration) -> str:
    return "no style" if configuration == BASE else f"{configuration}, step {configuration.key_step}"


def _order(entry: tuple[Configuration, object]) -> int:
    return entry[0].key_step or 0
