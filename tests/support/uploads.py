"""Small pictures to upload, and a look at what came back."""

from __future__ import annotations

import io

import httpx
import numpy as np
from PIL import Image


def picture(seed: int = 0, format: str = "PNG", size: tuple[int, int] = (96, 64)) -> bytes:
    """A picture file of random blocks of colour; each seed has its own."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(buffer, format)
    return buffer.getvalue()


def upload(client: httpx.Client, content: bytes, **fields: str) -> httpx.Response:
    """POST /v1/styles."""
    return client.post("/v1/styles", files={"image": ("style.png", content, "image/png")}, data=fields)


def is_image(content: bytes, format: str, size: tuple[int, int]) -> bool:
    """Whether the bytes are a whole image file of this format and size."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.format == format and image.size == size


def upload_several(client: httpx.Client, contents: list[bytes], **fields: str) -> httpx.Response:
    """POST /v1/styles with several pictures."""
    files = [("image", (f"{i}.png", content, "image/png")) for i, content in enumerate(contents)]
    return client.post("/v1/styles", files=files, data=fields)
