"""`python -m service.evaluation.edit_samples`: the pictures of docs/edits.md, drawn by a running service.

One sheet for each control: structure by strength, masks, regions. It needs `atelier serve --model nano`.
"""

from __future__ import annotations

import argparse
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.evaluation.references import named_reference
from service.evaluation.samples import style_images
from service.training.outside_pictures import outside_picture

CONTENTS = ("car", "cat", "house")  # named references
STRUCTURES = (0.0, 0.5, 1.0)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_SIDE, _GAP, _HEAD, _SEED = 96, 6, 18, 11
Cell = tuple[str, Image.Image]  # its title, and the picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a running service")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder to write")
    chosen = parser.parse_args()
    with httpx.Client(base_url=chosen.url, timeout=60) as client:
        pictures = {name: named_reference(name).picture for name in CONTENTS}
        pictures["landscape"] = outside_picture(np.random.default_rng(8))
        styles = {name: _style(client, picture) for name, picture in style_images().items()}
        sheets = {
            "edit-structure": _structures(client, pictures, styles),
            "edit-masks": _masks(client, pictures, styles),
            "edit-regions": _regions(client, pictures, styles),
        }
    for name, rows in sheets.items():
        _sheet(rows).save(chosen.out / f"{name}.webp", quality=90, method=6)


def _structures(
    client: httpx.Client, pictures: dict[str, NDArray[np.uint8]], styles: dict[str, str]
) -> list[list[Cell]]:
    """Two pictures in a style each, by structure (rows) and strength (columns)."""
    rows = []
    for content, style in (("car", "rose"), ("cat", "stripes")):
        for structure in STRUCTURES:
            row = [("picture", _image(pictures[content])), ("style", _image(style_images()[style]))]
            for strength in STRENGTHS:
                image = _edit(
                    client,
                    pictures[content],
                    structure=structure,
                    style={"id": styles[style], "strength": strength},
                )
                row.append((f"{structure:g} / {strength:g}", image))
            rows.append(row)
    return rows


def _masks(
    client: httpx.Client, pictures: dict[str, NDArray[np.uint8]], styles: dict[str, str]
) -> list[list[Cell]]:
    """A disc and a half, with a prompt, with more structure, and with a style."""
    y, x = np.mgrid[:64, :64]
    disc, half = (x - 32) ** 2 + (y - 32) ** 2 < 22**2, x < 32
    rows = []
    for name, mask, prompt in (
        ("car", disc, "a red star"),
        ("house", disc, "a green tree"),
        ("landscape", disc, "a fish"),
        ("cat", half, "a yellow heart"),
    ):
        picture = pictures[name]
        given: dict[str, Any] = {"mask": _png(np.dstack([picture, np.where(mask, 0, 255).astype(np.uint8)]))}
        shown = np.where(mask[..., None], picture // 3 + np.array([160, 40, 40], np.uint8), picture)
        rows.append(
            [
                ("picture", _image(picture)),
                ("mask", _image(shown.astype(np.uint8))),
                (prompt, _edit(client, picture, prompt=prompt, **given)),
                ("structure 0.5", _edit(client, picture, prompt=prompt, structure=0.5, **given)),
                ("a style", _edit(client, picture, style=styles["stripes"], **given)),
            ]
        )
    return rows


def _regions(
    client: httpx.Client, pictures: dict[str, NDArray[np.uint8]], styles: dict[str, str]
) -> list[list[Cell]]:
    """Halves and overlapping boxes in edits and generations, and the two halves of one style picture."""
    left, right, middle = [0, 0, 0.5, 1], [0.5, 0, 1, 1], [0.25, 0, 0.75, 1]
    stripes, wood = styles["stripes"], styles["wood"]
    layouts = {
        "left, right": [{"style": stripes, "box": left}, {"style": wood, "box": right}],
        "left alone": [{"style": stripes, "box": left}],
        "overlapping": [{"style": stripes, "box": [0, 0, 0.75, 1]}, {"style": wood, "box": [0.25, 0, 1, 1]}],
        "middle, half": [{"style": wood, "box": middle, "strength": 0.5}],
    }
    rows = []
    for name in ("car", "landscape"):
        row = [("picture", _image(pictures[name]))]
        row += [
            (title, _edit(client, pictures[name], structure=1, regions=regions))
            for title, regions in layouts.items()
        ]
        rows.append(row)
    plain = ("a house", _draw(client, prompt="a house"))
    rows.append(
        [plain, *((title, _draw(client, prompt="a house", regions=r)) for title, r in layouts.items())]
    )
    two = np.concatenate([style_images()["stripes"][:, 16:48], style_images()["rose"][:, 16:48]], axis=1)
    of_two = _style(client, two)
    boxes = (None, left, right, [0, 0, 0.5, 0.5])
    row = [("two styles", _image(two))]
    for box in boxes:
        style = {"id": of_two} | ({"box": box} if box else {})
        row.append((f"box {box or 'none'}", _draw(client, prompt="a house", style=style)))
    rows.append(row)
    return rows


def _style(client: httpx.Client, picture: NDArray[np.uint8]) -> str:
    answer = client.post("/v1/styles", files={"image": _file(picture)})
    answer.raise_for_status()
    return str(answer.json()["id"])


def _edit(client: httpx.Client, picture: NDArray[np.uint8], **fields: object) -> Image.Image:
    return _image_of(client, "edits", {"image": _png(picture), **fields})


def _draw(client: httpx.Client, **fields: object) -> Image.Image:
    return _image_of(client, "generations", fields)


def _image_of(client: httpx.Client, kind: str, fields: dict[str, Any]) -> Image.Image:
    body = {"seed": _SEED} | fields
    answer = client.post(f"/v1/images/{kind}", json=body, headers={"Accept": "image/png"})
    answer.raise_for_status()
    return Image.open(BytesIO(answer.content)).convert("RGB")


def _file(picture: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _png(picture: NDArray[np.uint8]) -> str:
    return b64encode(_file(picture)).decode()


def _image(picture: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(picture)


def _sheet(rows: list[list[Cell]]) -> Image.Image:
    width = max(map(len, rows)) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(rows) * (_SIDE + _HEAD + _GAP) + _GAP), "white")
    pencil = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (title, image) in enumerate(row):
            left, top = _GAP + x * (_SIDE + _GAP), y * (_SIDE + _HEAD + _GAP)
            pencil.text((left, top + 4), title, fill=(60, 60, 60))
            sheet.paste(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (left, top + _HEAD))
    return sheet


if __name__ == "__main__":
    main()
