"""Format, size, orientation and colour profile of a picture file, read before a pixel is decoded.

Pillow reads all of this too, but while it opens the file: it inflates PNG text and profiles, parses EXIF,
accepts a second header with other dimensions, and allocates a WebP's canvas. Metadata is where a decoder is
easiest to attack and it draws nothing, so the decoder is given only the parts that draw, of a file whose size
has been checked. Formats: PNG (ISO 15948), JPEG (ITU-T T.81), WebP (RFC 9649), GIF89a.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from service.errors import InvalidImage, UnsupportedMediaType

ACCEPTED = "Upload a PNG, JPEG, WebP or still GIF picture."
_MAX_ICC_BYTES = 4 << 20  # the largest press profiles in use are about 2 MiB
# A progressive file has about ten scans. Each costs a pass over the whole picture, however few its bytes.
_MAX_JPEG_SCANS = 50
_PNG_DRAWS = frozenset({b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_JPEG_RARE_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE})
# APP0 and APP14 (E0, EE) matter for drawing: they hold the colour model.
_JPEG_DRAWS = frozenset({0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}) | _JPEG_FRAMES
_JPEG_NO_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})  # markers without a length


class Format(StrEnum):
    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WebP"
    GIF = "GIF"


@dataclass(frozen=True, slots=True)
class Container:
    format: Format
    width: int  # as stored, before the orientation is applied
    height: int
    drawable: bytes  # the file without the parts that draw nothing
    is_animated: bool = False
    orientation: int = 1  # as EXIF counts: 1..8
    icc_profile: bytes | None = None


def read_container(upload: bytes) -> Container:
    """The format is detected from content. UnsupportedMediaType; InvalidImage when truncated or damaged."""
    for signature, read in _READERS.items():
        if upload.startswith(signature):
            try:
                return read(upload)
            except (struct.error, IndexError) as error:
                raise _cut_off() from error
    raise UnsupportedMediaType(f"The upload is {_describe(upload)}. {ACCEPTED}", param="image")


def _read_png(upload: bytes) -> Container:
    view = memoryview(upload)
    width, height = struct.unpack_from(">II", upload, 16)
    # Only the first header is kept; the checksum fails when the first chunk is not a header.
    _check_png_chunk(view, 8, 33)
    kept, kind, exif, packed_profile, is_animated = [view[:33]], b"IHDR", b"", b"", False
    position = 33
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", upload, position)
        end = position + 12 + length
        if kind in _PNG_DRAWS:
            _check_png_chunk(view, position, end)
            kept.append(view[position:end])
        elif kind == b"acTL":
            is_animated = True
        elif kind == b"eXIf":
            exif = upload[position + 8 : end - 4]
        elif kind == b"iCCP":
            # Only the first is inflated: thousands of such chunks fit into an upload, at 10 ms each.
            packed_profile = packed_profile or upload[position + 8 : end - 4].partition(b"\0")[2][1:]
        position = end
    icc_profile = _inflate(packed_profile) if packed_profile else None
    return Container(Format.PNG, width, height, b"".join(kept), is_animated, _orientation(exif), icc_profile)


def _check_png_chunk(view: memoryview, start: int, end: int) -> None:
    if zlib.crc32(view[start + 4 : end - 4]) != struct.unpack_from(">I", view, end - 4)[0]:
        raise _damaged("a checksum does not match")


def _inflate(compressed: bytes) -> bytes | None:
    """A colour profile; None when it is damaged or too large, and the picture is then read as sRGB."""
    try:
        profile = zlib.decompressobj().decompress(compressed, _MAX_ICC_BYTES + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= _MAX_ICC_BYTES else None


def _read_jpeg(upload: bytes) -> Container:
    view = memoryview(upload)
    kept, exif, icc_parts = [view[:2]], b"", dict[int, bytes]()
    width = height = 0
    position = 2
    while True:
        marker, position, end = _next_segment(upload, position)
        body = position + 4
        if marker in _JPEG_RARE_FRAMES or (marker in _JPEG_FRAMES and upload[body] != 8):
            raise UnsupportedMediaType(
                "This is a rare kind of JPEG (lossless, hierarchical, 12-bit). Save it as a plain JPEG.",
                param="image",
            )
        if marker in _JPEG_FRAMES:
            if width:
                raise _damaged("it has two headers")
            height, width = struct.unpack_from(">HH", upload, body + 1)
        if marker == 0xDA:
            break
        if marker in _JPEG_DRAWS:
            kept.append(view[position:end])
        elif marker == 0xE1 and upload.startswith(b"Exif\0\0", body):
            exif = exif or upload[body:end]
        elif marker == 0xE2 and upload.startswith(b"ICC_PROFILE\0", body):
            icc_parts[upload[body + 12]] = upload[body + 14 : end]
        position = end
    if upload.count(b"\xff\xda", position) > _MAX_JPEG_SCANS:
        raise _damaged(f"it is drawn in more than {_MAX_JPEG_SCANS} scans")
    kept.append(view[position:])
    icc_profile = b"".join(icc_parts[number] for number in sorted(icc_parts)) or None
    return Container(
        Format.JPEG, width, height, b"".join(kept), orientation=_orientation(exif), icc_profile=icc_profile
    )


def _next_segment(upload: bytes, position: int) -> tuple[int, int, int]:
    """Marker, start and end of the next JPEG segment, after padding and markers without a length."""
    while True:
        position = upload.find(b"\xff", position)
        if position < 0:
            raise _cut_off()
        marker = upload[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _JPEG_NO_LENGTH:
            position += 2
        else:
            break
    (length,) = struct.unpack_from(">H", upload, position + 2)
    end = position + 2 + length
    return marker, position, end


def _read_webp(upload: bytes) -> Container:
    if upload[8:12] != b"WEBP":
        raise UnsupportedMediaType(f"The upload is a RIFF file, but not WebP. {ACCEPTED}", param="image")
    (riff_length,) = struct.unpack_from("<I", upload, 4)
    end = 8 + riff_length
    first, is_animated, exif, icc_profile = upload[12:16], False, b"", None
    width, height = _webp_size(first, upload)
    position = 12
    while position + 8 <= end:
        kind, length = struct.unpack_from("<4sI", upload, position)
        body = upload[position + 8 : position + 8 + length] if kind in (b"EXIF", b"ICCP") else b""
        if kind in (b"ANIM", b"ANMF"):
            is_animated = True
        elif kind == b"EXIF":
            exif = body
        elif kind == b"ICCP" and length <= _MAX_ICC_BYTES:
            icc_profile = body
        position += 8 + length + length % 2
    # The decoder ignores the metadata of a WebP, so it is given the whole file.
    return Container(Format.WEBP, width, height, upload, is_animated, _orientation(exif), icc_profile)


def _webp_size(kind: bytes, upload: bytes) -> tuple[int, int]:
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", upload, 24)
        return (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", upload, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", upload, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise _damaged("it does not begin with a picture")


def _read_gif(upload: bytes) -> Container:
    width, height, flags = struct.unpack_from("<HHB", upload, 6)
    position, num_frames = 13 + _gif_palette_bytes(flags), 0
    while num_frames < 2 and upload[position] != 0x3B:  # 0x3B closes the file
        if upload[position] == 0x2C:
            left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", upload, position + 1)
            # The decoder widens the picture to the frame, so the frame counts towards its size.
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            num_frames += 1
            position += 11 + _gif_palette_bytes(flags)
        elif upload[position] == 0x21:
            position += 2
        else:
            raise _damaged("it has a block of no known kind")
        while length := upload[position]:
            position += length + 1
        position += 1
    return Container(Format.GIF, width, height, upload, is_animated=num_frames > 1)


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _orientation(exif: bytes) -> int:
    """The orientation in the first EXIF directory; 1 (upright) when it is missing or unreadable."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (num_entries,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(num_entries):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if (tag, kind) == (0x0112, 3):
                return value if value in range(1, 9) else 1
    except struct.error:
        pass
    return 1


def _describe(upload: bytes) -> str:
    head = upload[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if upload[4:8] == b"ftyp":
        return "an AVIF, HEIC or MP4 file"
    for signature, name in _OTHERS.items():
        if head.startswith(signature):
            return name
    return "not in a picture format known here"


def _cut_off() -> InvalidImage:
    return InvalidImage("The picture is cut off: the file ends early. Upload all of it.", param="image")


def _damaged(reason: str) -> InvalidImage:
    return InvalidImage(f"The picture is damaged: {reason}. Save it again and upload that.", param="image")


_READERS: dict[bytes, Callable[[bytes], Container]] = {
    b"\x89PNG\r\n\x1a\n": _read_png,
    b"\xff\xd8\xff": _read_jpeg,
    b"RIFF": _read_webp,
    b"GIF87a": _read_gif,
    b"GIF89a": _read_gif,
}
_OTHERS = {
    b"<?xml": "an XML document",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"%pdf": "a PDF document",
    b"%!ps": "a PostScript document",
    b"bm": "a BMP picture",
    b"ii*\0": "a TIFF picture",
    b"mm\0*": "a TIFF picture",
    b"8bps": "a Photoshop document",
    b"pk\x03\x04": "a ZIP archive",
    b"\xff\x0a": "a JPEG XL picture",
    b"{": "JSON",
}
