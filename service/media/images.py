"""Bytes in, a bounded RGB picture out; an image in, PNG, JPEG or WebP bytes out.

Uploads are hostile. Format, dimensions and animation are checked in the file's container (containers.py)
before anything is decoded, and the decoded image is shrunk at once: 2048 x 1024 is enough to show a style.
Everything here is blocking work on bytes, safe to run on several threads.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service.errors import InvalidImage, InvalidRequest, PayloadTooLarge
from service.media.containers import Container, Format, read_container
from service.media.jpeg import draft_scale, ends_early
from service.media.png_encoder import encode_png

MIN_SIDE = 16
MAX_SHORT_SIDE = 1024
MAX_LONG_SIDE = 2048
DEFAULT_QUALITY = 90
# The format's own reader: Image.open guesses, and warns through a filter that all threads share.
_OPEN: dict[Format, type[ImageFile]] = {
    Format.PNG: PngImageFile,
    Format.JPEG: JpegImageFile,
    Format.WEBP: WebPImageFile,
    Format.GIF: GifImageFile,
}
_UPRIGHT = {  # EXIF orientation -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_TURNED = 5  # orientation from which on width and height change places
_ICC_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space -> the mode it describes


@dataclass(frozen=True, slots=True)
class Picture:
    """A sanitised upload: upright, opaque sRGB, sides at most 1024 and 2048 pixels, no metadata."""

    content: bytes  # lossless
    media_type: str
    width: int
    height: int
    digest: str  # SHA-256 in hex over dimensions and RGB pixels, whatever the encoding of `content`

    def pixels(self) -> NDArray[np.uint8]:  # [height, width, 3]
        return np.array(_open_content(self.content))


class OutputFormat(StrEnum):
    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


def num_decoded_pixels(upload: bytes, *, max_bytes: int, max_pixels: int) -> int:
    """How many pixels `read_picture` would decode, from the file's headers alone; a large JPEG is decoded at
    a reduced size. Raises as `read_picture`, but for what only decoding shows.
    """
    container = _checked(upload, max_bytes=max_bytes, max_pixels=max_pixels)
    scale = _draft_scale(container) if container.format is Format.JPEG else 1
    return -(-container.width // scale) * -(-container.height // scale)


def read_picture(upload: bytes, *, max_bytes: int, max_pixels: int) -> Picture:
    """Read an untrusted upload: PNG, JPEG, WebP or still GIF. The declared type is ignored.

    Raises PayloadTooLarge, UnsupportedMediaType or InvalidImage, and nothing else. Memory: at the peak about
    16 bytes a pixel of the upload (WebP; the others under 13), so limit how many run at once.
    """
    return _picture(read_pixels(upload, max_bytes=max_bytes, max_pixels=max_pixels).image, content=None)


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded upload, upright and within the bounds of a Picture."""

    image: Image.Image  # opaque sRGB
    alpha: Image.Image | None  # where the upload has transparency
    width: int  # of the upload itself, upright
    height: int

    @property
    def digest(self) -> str:
        """As a Picture's."""
        return _digest(self.image)


def read_pixels(upload: bytes, *, max_bytes: int, max_pixels: int) -> Pixels:
    """What `read_picture` reads, before it is kept, and what it raises."""
    container = _checked(upload, max_bytes=max_bytes, max_pixels=max_pixels)
    try:
        image, alpha = _decode(container)
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of exceptions for a damaged file.
        raise InvalidImage(
            f"The {container.format} picture is cut off or damaged. Save it again and upload that.",
            param="image",
        ) from error
    size = container.width, container.height
    width, height = size[::-1] if container.orientation >= _FIRST_TURNED else size
    return Pixels(image, alpha, width, height)


def _checked(upload: bytes, *, max_bytes: int, max_pixels: int) -> Container:
    """What the file says of itself, when it may be decoded."""
    if not upload:
        raise InvalidImage("The upload is empty. Send the picture's bytes.", param="image")
    if len(upload) > max_bytes:
        raise PayloadTooLarge(
            f"The upload is {len(upload) / 2**20:.1f} MiB; at most {max_bytes / 2**20:g} MiB are accepted.",
            param="image",
        )
    container = read_container(upload)
    _check_dimensions(container, max_pixels)
    if container.is_animated:
        raise InvalidImage("The picture is animated. Upload one still frame of it.", param="image")
    return container


def picture_from_content(content: bytes) -> Picture:
    """The Picture whose `content` this is; ValueError when it is not one."""
    try:
        image = _open_content(content)
    except Exception as error:
        raise ValueError("a stored picture is damaged") from error
    return _picture(image, content)


def check_compression(format: OutputFormat, compression: int | None) -> None:
    """InvalidRequest unless 0 to 100 or None; a PNG is lossless and takes only None or 100."""
    if compression is not None and not 0 <= compression <= 100:
        raise InvalidRequest(
            f"output_compression is {compression}; it goes from 0 to 100.", param="output_compression"
        )
    if format is OutputFormat.PNG and compression not in (None, 100):
        raise InvalidRequest(
            "output_compression applies to jpeg and webp; a png is lossless. "
            "Leave it out or choose another output_format.",
            param="output_compression",
        )


def media_type_of(file: bytes) -> str:
    """Of an image file that `encode_image` made."""
    return f"image/{read_container(file).format.value.lower()}"


def encode_image(
    image: NDArray[np.uint8], format: OutputFormat, *, compression: int | None, xmp: bytes = b""
) -> bytes:
    """Encode [height, width, 3] RGB, with a packet of XMP unless that is empty.

    `compression` is OpenAI's output_compression: the quality, 0 to 100, of a JPEG or WebP; None means 90.
    InvalidRequest as from `check_compression`.
    """
    check_compression(format, compression)
    if format is OutputFormat.PNG:
        return encode_png(image, xmp)
    picture, buffer = Image.fromarray(image), io.BytesIO()
    quality = DEFAULT_QUALITY if compression is None else compression
    if format is OutputFormat.JPEG:
        # Colour at full resolution: flat shapes in strong colours are what halved chroma smears most.
        picture.save(buffer, "JPEG", quality=quality, subsampling=0, xmp=xmp)
    else:
        # 1024 x 1024: method 2 takes half the time of method 4 (62 against 120 ms) for the same bytes.
        picture.save(buffer, "WEBP", quality=quality, method=2, xmp=xmp)
    return buffer.getvalue()


def resize_image(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The image [h, w, 3] RGB at exactly this size: resized to cover it, what stands over cut off evenly."""
    resized = ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def _check_dimensions(container: Container, max_pixels: int) -> None:
    width, height = container.width, container.height
    if width * height > max_pixels:
        raise PayloadTooLarge(
            f"The picture is {width}x{height}, {width * height / 1e6:.1f} million pixels; "
            f"at most {max_pixels / 1e6:g} million are accepted.",
            param="image",
        )
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(
            f"The picture is {width}x{height}; each side must be at least {MIN_SIDE} pixels.", param="image"
        )
    if min(_bounded(width, height)) < MIN_SIDE:
        raise InvalidImage(
            f"The picture is {width}x{height}, a strip too thin to show a style; "
            f"one side may be at most {MAX_LONG_SIDE // MIN_SIDE} times the other.",
            param="image",
        )


def _bounded(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SHORT_SIDE / min(width, height), MAX_LONG_SIDE / max(width, height))
    return round(width * scale), round(height * scale)


def _draft_scale(container: Container) -> int:
    width, height = _bounded(container.width, container.height)
    return draft_scale(container.width, container.height, (2 * width, 2 * height))


def _decode(container: Container) -> tuple[Image.Image, Image.Image | None]:
    """Upright opaque sRGB within the bounds, and its alpha if it has any; shrunk before colours are
    converted, to bound the memory.
    """
    shrunk = _shrunk(container)
    alpha = shrunk.getchannel("A") if shrunk.mode in ("LA", "RGBA") else None
    image = _on_white(shrunk, alpha, container.icc_profile)
    turn = _UPRIGHT.get(container.orientation)
    if turn is None:
        return image, alpha
    return image.transpose(turn), None if alpha is None else alpha.transpose(turn)


def _shrunk(container: Container) -> Image.Image:
    """Of a plain mode, within the bounds. What was decoded is freed with this call."""
    with _OPEN[container.format](io.BytesIO(container.drawable)) as file:
        if file.size != (container.width, container.height):
            # The size that was checked must be the size that is decoded.
            raise ValueError(f"the decoder sees {file.size}")
        width, height = _bounded(*file.size)
        file.draft(None, (2 * width, 2 * height))  # a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size
        file.load()
        if container.format is Format.JPEG and ends_early(file, container.drawable, _draft_scale(container)):
            raise ValueError("the data ends before the picture")
        image = _with_plain_mode(file)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def _with_plain_mode(image: Image.Image) -> Image.Image:
    """One of L, LA, RGB, RGBA, CMYK: 8 bits, no palette, transparency only as an alpha channel."""
    if image.mode == "I;16":  # Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    is_grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        mode = "LA" if is_grey else "RGBA"
    elif image.mode == "CMYK":
        mode = "CMYK"
    else:
        mode = "L" if is_grey else "RGB"
    return image if image.mode == mode else image.convert(mode)  # convert() copies even when nothing changes


def _on_white(image: Image.Image, alpha: Image.Image | None, icc_profile: bytes | None) -> Image.Image:
    colour = image.convert("L" if image.mode in ("L", "LA") else "CMYK" if image.mode == "CMYK" else "RGB")
    colour = _in_srgb(colour, icc_profile)
    if alpha is None:
        return colour
    white = Image.new("RGB", colour.size, "white")
    white.paste(colour, mask=alpha)
    return white


def _in_srgb(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
    """Converted from the embedded profile when it is valid and of this colour space, else taken as sRGB."""
    if icc_profile is not None:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
            if _ICC_MODES.get(profile.profile.xcolor_space) == image.mode:
                converted = ImageCms.profileToProfile(
                    image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # browsers, too, ignore a broken profile
    return image.convert("RGB")


def _picture(image: Image.Image, content: bytes | None) -> Picture:
    if content is None:
        buffer = io.BytesIO()
        # The fastest lossless WebP: half the time of the fastest PNG, and 5 % to 15 % smaller.
        image.save(buffer, "WEBP", lossless=True, quality=0, method=0)
        content = buffer.getvalue()
    return Picture(content, "image/webp", image.width, image.height, _digest(image))


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.width}x{image.height}\n".encode() + image.tobytes()).hexdigest()


def _open_content(content: bytes) -> Image.Image:
    with WebPImageFile(io.BytesIO(content)) as file:
        file.load()
        return file.convert("RGB")
