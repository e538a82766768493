"""A style picture is prepared as the reference prepares it: scaled to cover, then cropped at the centre."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.model.device.transfer import pixels_of
from service.model.schedule import Size

CPU = torch.device("cpu")


def picture(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prepared(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    pixels = pixels_of(image, size, CPU)
    assert pixels.shape == (1, 3, size.height, size.width)
    assert pixels.dtype == torch.float32
    return ((pixels[0] + 1) / 2 * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_a_picture_of_the_size_is_unchanged() -> None:
    image = picture(64, 48)
    assert np.array_equal(prepared(image, Size(64, 48)), image)


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(97, 64, (slice(None), slice(16, 80))), (64, 97, (slice(16, 80), slice(None)))],
)
def test_a_picture_that_covers_the_size_is_cropped_to_whole_pixels(
    width: int, height: int, box: tuple[slice, slice]
) -> None:
    image = picture(width, height)
    assert np.array_equal(prepared(image, Size(64, 64)), image[box])


@pytest.mark.parametrize(
    ("width", "height", "size", "covering", "corner"),
    [
        (300, 200, Size(64, 64), (96, 64), (16, 0)),
        (200, 301, Size(64, 64), (64, 96), (0, 16)),
        (50, 40, Size(80, 80), (100, 80), (10, 0)),
        (333, 500, Size(96, 48), (96, 144), (0, 48)),
        (1000, 300, Size(48, 96), (320, 96), (136, 0)),
    ],
)
def test_another_picture_is_scaled_by_lanczos_to_cover_and_cropped_at_the_centre(
    width: int, height: int, size: Size, covering: tuple[int, int], corner: tuple[int, int]
) -> None:
    image = picture(width, height)
    scaled = np.asarray(Image.fromarray(image).resize(covering, Image.Resampling.LANCZOS))
    left, top = corner
    expected = scaled[top : top + size.height, left : left + size.width]
    assert np.array_equal(prepared(image, size), expected)


@given(st.integers(16, 130), st.integers(16, 130), st.integers(1, 9), st.integers(1, 9))
def test_any_picture_gives_exactly_the_size(width: int, height: int, across: int, down: int) -> None:
    """Also where a quotient of sides is a hair below a whole number."""
    prepared(picture(width, height), Size(16 * across, 16 * down))
