"""PNG files of our own: others read from them exactly the pixels that went in."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.media.png_encoder import encode_png


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (64, 64), (333, 217), (1024, 1024)])
@pytest.mark.parametrize("kind", ["noise", "flat", "gradient"])
def test_a_png_holds_the_pixels_that_went_in(size: tuple[int, int], kind: str) -> None:
    height, width = size
    image = {
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8),
        "flat": np.full((height, width, 3), 200, np.uint8),
        "gradient": np.add.outer(np.arange(height), np.arange(3 * width)).astype(np.uint8),
    }[kind].reshape(height, width, 3)
    with Image.open(io.BytesIO(encode_png(image))) as read:
        assert (read.format, read.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(read), image)


def test_an_image_that_lies_in_memory_otherwise_is_written_alike() -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    assert encode_png(np.asfortranarray(image)) == encode_png(image)
    assert encode_png(image[::-1, ::-1][::-1, ::-1]) == encode_png(image)


def test_a_checksum_guards_every_part_of_the_file() -> None:
    file = bytearray(encode_png(np.zeros((16, 16, 3), np.uint8)))
    file[len(file) // 2] ^= 1
    with pytest.raises((OSError, SyntaxError)), Image.open(io.BytesIO(bytes(file))) as read:
        read.load()
