"""Every kind of upload becomes bounded RGB; every image is encoded in the chosen format."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from service.errors import InvalidRequest
from service.media.images import OutputFormat, encode_image, picture_from_content
from tests.support.pictures import black_png, chunk, corner, gradient, png, read, saved

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


# --- what is accepted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("upload", [saved(gradient(), "PNG"), saved(gradient(), "WEBP", lossless=True)])
def test_a_lossless_upload_keeps_every_pixel(upload: bytes) -> None:
    picture = read(upload)
    assert (picture.width, picture.height) == (40, 30)
    assert np.array_equal(picture.pixels(), np.asarray(gradient()))


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("WEBP", {"quality": 95}), ("GIF", {})],
)
def test_a_lossy_upload_looks_the_same(format: str, options: dict[str, Any]) -> None:
    pixels = read(saved(gradient(), format, **options)).pixels()
    assert np.abs(pixels.astype(int) - np.asarray(gradient())).mean() < 8


def test_each_colour_model_becomes_rgb() -> None:
    for mode, format in [("1", "PNG"), ("L", "PNG"), ("P", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG")]:
        picture = read(saved(Image.new("RGB", (20, 20), WHITE).convert(mode), format))
        assert picture.pixels().shape == (20, 20, 3)
        assert corner(picture) == WHITE, mode
    red, green, _ = corner(read(saved(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG")))
    assert red > 250 > 5 > green


def test_sixteen_bits_keep_their_brightness() -> None:
    grey = Image.fromarray(np.full((20, 20), 0x8000, np.uint16))
    assert corner(read(saved(grey, "PNG"))) == (0x80, 0x80, 0x80)
    rows = (b"\0" + struct.pack(">3H", 0xFFFF, 0x8000, 0x0000) * 16) * 16
    assert corner(read(png(16, 16, 16, 2, rows))) == (255, 128, 0)


def test_a_transparent_colour_of_sixteen_bits_does_no_harm() -> None:
    key = struct.pack(">3H", 0xFFFF, 0x8000, 0x0000)
    assert corner(read(png(16, 16, 16, 2, (b"\0" + key * 16) * 16, chunk(b"tRNS", key)))) == (255, 128, 0)
    grey = png(16, 16, 16, 0, (b"\0" + key[2:4] * 16) * 16, chunk(b"tRNS", key[:2]))
    assert corner(read(grey)) == (128, 128, 128)


def test_transparency_shows_white() -> None:
    palette = Image.new("P", (20, 20), 3)
    palette.putpalette([9, 9, 9] * 256)
    levels = bytes([255, 255, 255, 0]) + bytes([128] * 252)
    uploads = {
        "RGBA": saved(Image.new("RGBA", (20, 20), (200, 0, 0, 0)), "PNG"),
        "LA": saved(Image.new("LA", (20, 20), (7, 0)), "PNG"),
        "one transparent entry": saved(palette, "PNG", transparency=3),
        "a level for each entry": saved(palette, "PNG", transparency=levels),
        "one transparent colour": black_png(chunk(b"tRNS", bytes(6))),
        "WebP": saved(Image.new("RGBA", (20, 20), (200, 0, 0, 0)), "WEBP"),
        "GIF": saved(palette, "GIF", transparency=3),
    }
    for name, upload in uploads.items():
        assert corner(read(upload)) == WHITE, name
    half = read(saved(Image.new("RGBA", (20, 20), (0, 0, 0, 128)), "PNG"))
    assert corner(half) == (127, 127, 127)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_is_turned_upright(format: str, orientation: int) -> None:
    turned = {  # how a viewer must turn the stored pixels, by the EXIF standard
        1: lambda stored: stored,
        2: np.fliplr,
        3: lambda stored: np.rot90(stored, 2),
        4: np.flipud,
        5: lambda stored: stored.transpose(1, 0, 2),
        6: lambda stored: np.rot90(stored, -1),
        7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
        8: lambda stored: np.rot90(stored, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.new("RGB", (48, 32), BLACK)
    stored.paste(RED, (0, 0, 24, 16))
    expected = turned[orientation](np.asarray(stored))
    pixels = read(saved(stored, format, exif=exif)).pixels()
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 4


def test_an_embedded_colour_profile_is_applied() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    for format in ("PNG", "JPEG", "WEBP"):
        red, green, _ = corner(read(saved(Image.new("RGB", (20, 20), RED), format, icc_profile=swapped)))
        assert green > 240 > 15 > red, format


def test_a_useless_colour_profile_is_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"nonsense", lab, bytes(200), srgb.replace(b"rTRC", b"????"), srgb[:300]):
        assert corner(read(saved(Image.new("RGB", (20, 20), RED), "PNG", icc_profile=profile))) == RED


def test_the_first_picture_of_a_phone_photo_with_several_is_read() -> None:
    upload = saved(gradient(), "MPO", save_all=True, append_images=[gradient().rotate(180)])
    assert np.abs(read(upload).pixels().astype(int) - np.asarray(gradient())).mean() < 8


# --- what is bounded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "bounded"),
    [
        ((16, 16), (16, 16)),
        ((1024, 2048), (1024, 2048)),
        ((1200, 1200), (1024, 1024)),
        ((3000, 1500), (2048, 1024)),
        ((400, 4000), (205, 2048)),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_large_picture_is_shrunk_and_a_small_one_left(
    format: str, size: tuple[int, int], bounded: tuple[int, int]
) -> None:
    picture = read(saved(Image.new("RGB", size, RED), format))
    assert (picture.width, picture.height) == bounded
    assert picture.pixels().shape == (bounded[1], bounded[0], 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_shrunk_picture_looks_the_same(format: str) -> None:
    pixels = read(saved(gradient().resize((2400, 1800)), format)).pixels()
    expected = np.asarray(gradient().resize((pixels.shape[1], pixels.shape[0])))
    assert np.abs(pixels.astype(int) - expected).mean() < 8


def test_shrinking_does_not_bleed_hidden_colours() -> None:
    image = Image.new("RGBA", (1400, 1400), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (701, 0, 1400, 1400))
    pixels = read(saved(image, "PNG", compress_level=1)).pixels()
    assert np.array_equal(pixels[..., 0], pixels[..., 1])


def test_the_digest_follows_the_pixels_and_not_the_file() -> None:
    as_png, as_webp = read(saved(gradient(), "PNG")), read(saved(gradient(), "WEBP", lossless=True))
    assert as_png.digest == as_webp.digest
    assert as_png.digest != read(saved(gradient().rotate(180), "PNG")).digest
    wide, tall = (read(saved(Image.new("RGB", size, BLACK), "PNG")) for size in ((32, 16), (16, 32)))
    assert wide.digest != tall.digest


def test_the_stored_form_carries_no_metadata_and_reads_back_equal() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret location"
    picture = read(saved(gradient(), "PNG", exif=exif))
    assert b"secret" not in picture.content
    assert picture.media_type == "image/webp"
    assert picture_from_content(picture.content) == picture


def test_a_damaged_stored_form_is_a_value_error() -> None:
    content = read(saved(gradient(), "PNG")).content
    for damaged in (b"", b"not a picture", content[: len(content) // 2]):
        with pytest.raises(ValueError, match="stored picture"):
            picture_from_content(damaged)


# --- encoding -----------------------------------------------------------------------------------------------


def pixels_of(encoded: bytes, format: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == format
        return np.array(image.convert("RGB"))


def test_a_png_is_exact_and_the_others_are_close() -> None:
    image = np.array(gradient())
    assert np.array_equal(pixels_of(encode_image(image, OutputFormat.PNG, compression=None), "PNG"), image)
    for format in (OutputFormat.JPEG, OutputFormat.WEBP):
        decoded = pixels_of(encode_image(image, format, compression=None), format.name)
        assert np.abs(decoded.astype(int) - image).mean() < 4


@pytest.mark.parametrize("format", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_compression_is_the_quality(format: OutputFormat) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    sizes = [len(encode_image(image, format, compression=quality)) for quality in (0, 50, 90, 100)]
    assert sizes == sorted(set(sizes))
    assert encode_image(image, format, compression=None) == encode_image(image, format, compression=90)


@pytest.mark.parametrize(
    ("format", "compression"), [(OutputFormat.PNG, 50), (OutputFormat.JPEG, 101), (OutputFormat.WEBP, -1)]
)
def test_compression_where_it_makes_no_sense_is_refused(format: OutputFormat, compression: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode_image(np.array(gradient()), format, compression=compression)
    assert caught.value.param == "output_compression"


def test_a_png_accepts_full_quality() -> None:
    full, default = (encode_image(np.array(gradient()), OutputFormat.PNG, compression=c) for c in (100, None))
    assert full == default
