"""Picture files for the tests: real ones made by Pillow, crooked ones made chunk by chunk."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from service.media.images import Picture, read_picture


def read(upload: bytes, max_bytes: int = 10 << 20, max_pixels: int = 50_000_000) -> Picture:
    return read_picture(upload, max_bytes=max_bytes, max_pixels=max_pixels)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], 2).astype(np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def black_png(*extra: bytes) -> bytes:
    return png(16, 16, 8, 2, bytes(16 * (1 + 3 * 16)), *extra)


def corner(picture: Picture) -> tuple[int, ...]:
    return tuple(int(value) for value in picture.pixels()[0, 0])
