"""`python -m service.evaluation.samples`: the sample pictures, drawn by a running service.

Eight style images, four from nano's own world and four from outside it, go up as an app would send them;
every prompt then comes back in every style. Needs `atelier serve --model nano` at --url. With `--styles DIR`
the pictures of a folder, such as photographs, are the style images, and only the sheet is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from service.evaluation.paper.protocol import read_styles
from service.evaluation.references import named_reference
from service.training.outside_pictures import outside_picture

PROMPTS = (
    "a penguin", "an apple", "a tulip", "a mushroom", "a pumpkin", "a house",
    "a mountain", "a sailboat", "a bus", "an umbrella", "a magnet", "a heart",
)  # fmt: skip
_RENDERED = ("neon", "wood", "stripes", "watercolour")  # named references
_OUTSIDE = {"dunes": 8, "rose": 28, "dots": 52, "sunset": 104}  # seeds
_FOLDER = Path(__file__).parents[1] / "playground" / "samples"
_SIDE = 96
_SEED = 11


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a running service")
    parser.add_argument("--out", type=Path, default=_FOLDER, help="folder to write")
    parser.add_argument("--styles", type=Path, help="folder of pictures to draw in, in place of the eight")
    chosen = parser.parse_args()
    with httpx.Client(base_url=chosen.url, timeout=60) as client:
        if chosen.styles:
            pictures = {style.name: style.picture for style in read_styles(chosen.styles)}
            save_sheet(client, pictures, chosen.out)
        else:
            make_samples(client, chosen.out)


def make_samples(client: httpx.Client, folder: Path) -> None:
    """Writes a PNG for each style image, and sheet.webp: styles by prompts, after the style images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in style_images().items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    save_sheet(client, style_images(), folder)


def save_sheet(client: httpx.Client, pictures: Mapping[str, NDArray[np.uint8]], folder: Path) -> None:
    """Uploads pictures [h, w, 3] by name, and writes sheet.webp."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[list[Image.Image | None]] = [[None, *(_drawn(client, prompt, None) for prompt in PROMPTS)]]
    for name, picture in pictures.items():
        image, file = Image.fromarray(picture), BytesIO()
        image.save(file, "PNG")
        answer = client.post("/v1/styles", files={"image": file.getvalue()}, data={"name": name})
        answer.raise_for_status()
        style = answer.json()["id"]
        square = ImageOps.fit(image, (_SIDE, _SIDE), Image.Resampling.LANCZOS)
        rows.append([square, *(_drawn(client, prompt, style) for prompt in PROMPTS)])
    _sheet(rows).save(folder / "sheet.webp", quality=90, method=6)


def style_images() -> dict[str, NDArray[np.uint8]]:
    """Eight pictures [64, 64, 3] by name."""
    rendered = {name: named_reference(name).picture for name in _RENDERED}
    outside = {name: outside_picture(np.random.default_rng(seed)) for name, seed in _OUTSIDE.items()}
    return rendered | outside


def _drawn(client: httpx.Client, prompt: str, style: str | None) -> Image.Image:
    body = {"prompt": prompt, "seed": _SEED} | ({"style": style} if style else {})
    answer = client.post("/v1/images/generations", json=body, headers={"Accept": "image/png"})
    answer.raise_for_status()
    return Image.open(BytesIO(answer.content)).convert("RGB")


def _sheet(rows: list[list[Image.Image | None]]) -> Image.Image:
    gap, head = 6, 18
    width, height = len(rows[0]) * (_SIDE + gap) + gap, len(rows) * (_SIDE + gap) + head
    sheet = Image.new("RGB", (width, height), "white")
    pencil = ImageDraw.Draw(sheet)
    for column, title in enumerate(("style", *PROMPTS)):
        pencil.text((gap + column * (_SIDE + gap), 4), title, fill=(60, 60, 60))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            if image is not None:
                large = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
                sheet.paste(large, (gap + x * (_SIDE + gap), head + y * (_SIDE + gap)))
    return sheet


if __name__ == "__main__":
    main()
