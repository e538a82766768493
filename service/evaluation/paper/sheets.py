"""Contact sheets: what the arms of a recipe drew, under the style images and the prompts."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.evaluation.paper.document import Picture
from service.evaluation.paper.journal import image_file, read_image
from service.evaluation.paper.protocol import Cell, Protocol
from service.evaluation.paper.recipes import Recipe

_SIDE, _GAP, _LABEL, _HEAD, _CHARACTERS = 112, 6, 190, 34, 30
_MAX_COLUMNS = 8


def contact_sheet(recipe: Recipe, protocol: Protocol, folder: Path) -> Picture:
    """A column for each of up to eight cells, along the diagonal of the grid."""
    cells = shown_cells(protocol)
    rows: list[tuple[str, list[NDArray[np.uint8]]]] = [
        ("style image", [cell.style.picture for cell in cells])
    ]
    for row in recipe.rows:
        if row.arm.name != "copy":
            files = [folder / image_file(row.arm.name, cell.row, cell.column) for cell in cells]
            rows.append((row.label, [read_image(file) for file in files]))
    sheet = _sheet(rows, [cell.prompt for cell in cells])
    found = io.BytesIO()
    sheet.save(found, "WEBP", quality=85, method=4)
    named = "; ".join(f"{cell.prompt} in {cell.style.name}" for cell in cells)
    return Picture(f"{recipe.name}-sheet.webp", found.getvalue(), f"{recipe.title}, drawn: {named}")


def shown_cells(protocol: Protocol) -> list[Cell]:
    """Along the diagonal of the grid."""
    num = min(_MAX_COLUMNS, max(len(protocol.prompts), len(protocol.styles)))
    wanted = [(index % len(protocol.prompts), index % len(protocol.styles)) for index in range(num)]
    by_place = {(cell.row, cell.column): cell for cell in protocol.cells()}
    return [by_place[place] for place in dict.fromkeys(wanted)]


def _sheet(rows: list[tuple[str, list[NDArray[np.uint8]]]], prompts: list[str]) -> Image.Image:
    height = _fitted(rows[-1][1][0]).height
    width = _LABEL + len(prompts) * (_SIDE + _GAP)
    sheet = Image.new("RGB", (width, _HEAD + len(rows) * (height + _GAP)), "white")
    pencil, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column, prompt in enumerate(prompts):
        lines = textwrap.wrap(prompt, _SIDE // 7)[:2]
        pencil.text((_LABEL + column * (_SIDE + _GAP), 2), "\n".join(lines), "#1d2129", font, spacing=1)
    for index, (label, images) in enumerate(rows):
        top = _HEAD + index * (height + _GAP)
        pencil.text((0, top + 4), "\n".join(textwrap.wrap(label, _CHARACTERS)), "#1d2129", font, spacing=2)
        for column, image in enumerate(images):
            sheet.paste(_fitted(image, height), (_LABEL + column * (_SIDE + _GAP), top))
    return sheet


def _fitted(image: NDArray[np.uint8], height: int | None = None) -> Image.Image:
    """As wide as a column; with `height`, cut to it at the centre or centred in it."""
    picture = Image.fromarray(image)
    scaled = picture.resize(
        (_SIDE, max(1, round(_SIDE * picture.height / picture.width))),
        Image.Resampling.NEAREST if picture.width <= _SIDE // 2 else Image.Resampling.LANCZOS,
    )
    if height is None or scaled.height == height:
        return scaled
    top = (scaled.height - height) // 2
    return scaled.crop((0, top, _SIDE, top + height))
