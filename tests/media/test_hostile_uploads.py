"""Uploads as attackers and accidents make them are read or refused with a sentence, in bounded memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidImage, PayloadTooLarge, ServiceError, UnsupportedMediaType
from service.media.containers import read_container
from tests.support.pictures import black_png, chunk, gradient, png, read, saved

pytestmark = pytest.mark.slow

# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upload", "named"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg/>', "SVG"),
        (b"<!DOCTYPE html><p>not found", "HTML"),
        (b"%PDF-1.7\n", "PDF"),
        (saved(gradient(), "BMP"), "BMP"),
        (saved(gradient(), "TIFF"), "TIFF"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "RIFF"),
        (b"just words", "no"),
        (b"\0", "no"),
    ],
)
def test_anything_but_the_four_formats_is_named_and_refused(upload: bytes, named: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=named) as caught:
        read(upload)
    assert "Upload a PNG, JPEG, WebP or still GIF" in caught.value.message
    assert caught.value.param == "image"


def test_an_empty_upload_is_refused() -> None:
    with pytest.raises(InvalidImage, match="empty"):
        read(b"")


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(PayloadTooLarge, match=r"at most 0\.5 MiB"):
        read(bytes(1 << 20), max_bytes=1 << 19)


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP"])
def test_an_animation_is_refused(format: str) -> None:
    upload = saved(gradient(), format, save_all=True, append_images=[gradient().rotate(180)], duration=100)
    with pytest.raises(InvalidImage, match="one still frame"):
        read(upload)


def test_a_picture_too_small_or_too_thin_is_refused() -> None:
    with pytest.raises(InvalidImage, match="at least 16 pixels"):
        read(saved(gradient(40, 15), "PNG"))
    with pytest.raises(InvalidImage, match="at most 128 times"):
        read(saved(Image.new("L", (3000, 16)), "PNG"))


def huge_png() -> bytes:
    return png(60_000, 60_000, 8, 2, b"")


def huge_jpeg() -> bytes:
    plain = saved(gradient(), "JPEG")
    return plain.replace(struct.pack(">HH", 30, 40), struct.pack(">HH", 60_000, 60_000), 1)


def huge_webp() -> bytes:
    body = b"WEBPVP8X" + struct.pack("<IIHBHB", 10, 0, 0xFFFF, 0, 0xFFFF, 0) + bytes(64)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def huge_gif_screen() -> bytes:
    plain = saved(gradient(), "GIF")
    return plain[:6] + struct.pack("<HH", 60_000, 60_000) + plain[10:]


def huge_gif_frame() -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 50_000, 50_000, 60_000, 60_000, 0) + b"\x02\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 20, 20, 0, 0, 0) + frame + b"\x3b"


@pytest.mark.parametrize("make", [huge_png, huge_jpeg, huge_webp, huge_gif_screen, huge_gif_frame])
def test_a_huge_picture_is_refused_from_its_header_alone(make: Callable[[], bytes]) -> None:
    with pytest.raises(PayloadTooLarge, match="at most 50 million"):
        read(make())


def test_the_pixel_bound_is_exact() -> None:
    upload = saved(gradient(40, 30), "PNG")
    assert read(upload, max_pixels=1200).width == 40
    with pytest.raises(PayloadTooLarge):
        read(upload, max_pixels=1199)


def test_a_second_header_does_not_smuggle_other_dimensions_in() -> None:
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    assert read(black_png(second)).width == 16
    upload = saved(gradient(), "JPEG")
    frame = upload[upload.index(b"\xff\xc0") :][:19]
    with pytest.raises(InvalidImage, match="two headers"):
        read(upload[:2] + frame + upload[2:])


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    upload = bytearray(black_png())
    upload[-13] ^= 1  # the checksum of the pixels
    with pytest.raises(InvalidImage, match="checksum"):
        read(bytes(upload))


def test_of_many_colour_profiles_only_the_first_is_inflated() -> None:
    first, other = (chunk(b"iCCP", b"p\0\0" + zlib.compress(text)) for text in (b"first", b"other"))
    assert read_container(black_png(first, other)).icc_profile == b"first"


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    upload = saved(gradient(), "JPEG", progressive=True)
    last_scan = upload[upload.rindex(b"\xff\xda") : -2]
    with pytest.raises(InvalidImage, match="50 scans"):
        read(upload[:-2] + last_scan * 60 + upload[-2:])


@pytest.mark.parametrize(("offset", "value"), [(1, 0xC3), (4, 12)], ids=["lossless", "12-bit"])
def test_a_rare_jpeg_is_refused(offset: int, value: int) -> None:
    upload = bytearray(saved(gradient(), "JPEG"))
    upload[upload.index(b"\xff\xc0") + offset] = value
    with pytest.raises(UnsupportedMediaType, match="plain JPEG"):
        read(bytes(upload))


MEASURE = """
import resource, sys
from service.media.images import read_picture
upload = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_picture(upload, max_bytes=10 << 20, max_pixels=50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB only on Linux")
def test_bombs_hidden_in_metadata_take_no_memory() -> None:
    bomb, megabyte = zlib.compress(bytes(200 << 20)), zlib.compress(bytes(1 << 20))
    texts = [chunk(b"zTXt", b"t%d\0\0" % number + megabyte) for number in range(60)]
    named = [(b"iCCP", b"p\0\0"), (b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")]
    upload = black_png(*texts, *(chunk(kind, head + bomb) for kind, head in named))
    run = subprocess.run([sys.executable, "-c", MEASURE], input=upload, capture_output=True, check=True)
    assert int(run.stdout) < 32 << 10  # KiB; the bombs hold 660 MiB


# --- damage -------------------------------------------------------------------------------------------------

SAMPLES = {
    "PNG": saved(gradient(20, 18), "PNG"),
    "PNG palette": saved(
        gradient(20, 18).quantize(8), "PNG", transparency=2, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"
    ),
    "JPEG": saved(gradient(20, 18), "JPEG", icc_profile=b"nonsense" * 20),
    "JPEG progressive": saved(gradient(20, 18), "JPEG", progressive=True),
    "WebP": saved(gradient(20, 18), "WEBP"),
    "WebP lossless": saved(gradient(20, 18).convert("RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0MM"),
    "GIF": saved(gradient(20, 18), "GIF", comment=b"hello"),
}
samples = st.sampled_from(sorted(SAMPLES))


def check_read_or_refused(upload: bytes) -> None:
    try:
        picture = read(upload, max_pixels=1_000_000)
    except (PayloadTooLarge, UnsupportedMediaType, InvalidImage):
        return
    assert picture.pixels().shape == (picture.height, picture.width, 3)
    assert 16 <= min(picture.width, picture.height) <= 1024


@pytest.mark.parametrize("name", ["PNG", "PNG palette", "WebP", "WebP lossless", "GIF"])
def test_every_truncation_is_refused(name: str) -> None:
    upload = SAMPLES[name]
    for length in range(len(upload)):
        with pytest.raises((InvalidImage, UnsupportedMediaType)):
            read(upload[:length])


@pytest.mark.parametrize("name", ["JPEG", "JPEG progressive"])
def test_a_truncated_jpeg_is_refused(name: str) -> None:
    upload = SAMPLES[name]
    for length in range(3, len(upload) * 3 // 4):
        with pytest.raises(InvalidImage):
            read(upload[:length])


def detailed(mode: str = "RGB") -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).convert(mode)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}, {"quality": 30}])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_whose_data_ends_early_behind_an_end_mark_is_refused(
    options: dict[str, Any], share: float, mode: str
) -> None:
    whole = saved(detailed(mode), "JPEG", **options)
    assert read(whole).width == 480
    with pytest.raises(InvalidImage, match="cut off or damaged"):
        read(whole[: int(share * len(whole))] + b"\xff\xd9")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("num_rows", [16, 40, 300, 320])
def test_a_jpeg_that_really_ends_in_grey_is_read(num_rows: int, mode: str) -> None:
    picture = detailed()
    picture.paste((128, 128, 128), (0, 320 - num_rows, 480, 320))
    for quality, optimize in product((10, 50, 75, 90, 100), (False, True)):
        upload = saved(picture.convert(mode), "JPEG", quality=quality, optimize=optimize)
        assert read(upload).height == 320


@given(samples, st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8))
@settings(max_examples=400, deadline=None)
def test_flipped_bytes_are_read_or_refused(name: str, changes: list[tuple[int, int]]) -> None:
    upload = bytearray(SAMPLES[name])
    for position, value in changes:
        upload[position % len(upload)] = value
    check_read_or_refused(bytes(upload))


@given(samples, st.integers(0, 4000), st.integers(0, 64), st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_spliced_bytes_are_read_or_refused(name: str, start: int, length: int, inserted: bytes) -> None:
    upload = SAMPLES[name]
    start %= len(upload)
    check_read_or_refused(upload[:start] + inserted + upload[start + length :])


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF89a", b""]), st.binary(max_size=200)
)
@settings(max_examples=200, deadline=None)
def test_noise_behind_a_signature_is_refused(signature: bytes, noise: bytes) -> None:
    with pytest.raises(ServiceError):
        read(signature + noise)


@given(st.integers(0, 12), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_crooked_png_header_with_a_sound_checksum_is_read_or_refused(position: int, value: int) -> None:
    header = bytearray(black_png()[16:29])
    header[position] = value
    check_read_or_refused(black_png()[:8] + chunk(b"IHDR", bytes(header)) + black_png()[33:])


def test_reading_is_safe_on_several_threads() -> None:
    uploads = [*SAMPLES.values()] * 8
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda upload: read(upload).digest, uploads))
    assert digests == [read(upload).digest for upload in uploads]
