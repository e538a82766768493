"""Style, what users see of one, and the record it is kept as: a Redis hash that people can read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import structlog

from service.errors import StyleDamaged, StyleNotFound
from service.styles.analysis import Reading
from service.styles.extractor import StyleText
from service.styles.style_code import is_code

log = structlog.get_logger(__name__)

# Format 1 is a style of one picture, also as the first version wrote it; that version refuses format 2.
ONE_PICTURE, ANY_SOURCE = "1", "2"
# The tenant without a name has the styles of a service without API keys.
NAMELESS = ""
_ID = re.compile(r"sty_([a-z2-7]{10})?[a-z2-7]{26}")


def style_id_of(
    picture_digests: Sequence[str] = (),
    *,
    words: StyleText | None = None,
    code: str | None = None,
    tenant: str = NAMELESS,
) -> str:
    """The content address of a style: the same sources, the same ID, on every replica and after a restart.

    130 bits of a SHA-256 over one line for each source. Pictures are a set: their order changes nothing, as
    it changes nothing in their mean. In front of them the mark of the tenant, so that an ID alone says whose
    style it is: without a look at the store, which could tell others by its answer or by its time what is
    there.
    """
    lines = [f"picture {digest}\n" for digest in sorted(picture_digests)]
    if words is not None:
        lines.append(f"words {words.seed} {hashlib.sha256(words.text.encode()).hexdigest()}\n")
    if code is not None:
        lines.append(f"code {code}\n")
    if tenant != NAMELESS:
        lines.append(f"tenant {tenant}\n")
    return f"sty_{_mark(tenant)}{_base32_digest(''.join(lines))[:26]}"


def not_found(style_id: str, *, param: str | None = None) -> StyleNotFound:
    """The error for a style that is not there, be it never created, deleted or not even an ID."""
    if is_code(style_id):
        return StyleNotFound(
            "A style code is not kept here, so it has no picture and nothing to change or to delete. "
            'POST /v1/styles {"code": ...} keeps it and answers an ID.',
            param=param,
        )
    return StyleNotFound(
        f"There is no style {style_id[:64]!r}. Create one with POST /v1/styles, which answers its ID, "
        "or list those there are with GET /v1/styles.",
        param=param,
    )


def no_picture(style_id: str, number: int, num_pictures: int) -> StyleNotFound:
    """The error for a picture that a style, which is there, does not have."""
    has = f"has {num_pictures}, counted from 0" if num_pictures else "was made without pictures"
    return StyleNotFound(
        f"There is no picture {number} of style {style_id}, which {has}.",
        param="index",
        code="style_image_not_found",
    )


def damaged(style_id: str, part: str, reason: ValueError) -> StyleDamaged:
    """The error for a style whose `part` cannot be read; logs the reason."""
    log.error("style_damaged", style_id=style_id, part=part, reason=str(reason))
    return StyleDamaged(
        f"The stored {part} of style {style_id} is damaged. Upload its picture again, or send its "
        "words or its code again, which repairs it; or delete the style."
    )


def is_style_id(text: str, *, tenant: str = NAMELESS) -> bool:
    """Whether it has the form of an ID of this tenant's; only such text ever becomes part of a store key."""
    match = _ID.fullmatch(text)
    return match is not None and (match[1] or "") == _mark(tenant)


@dataclass(frozen=True, slots=True)
class Style:
    id: str
    name: str | None
    created: int | None  # seconds since 1970; None for a code that is not stored
    num_images: int
    image_width: int | None = None  # of the first style image, as stored
    image_height: int | None = None
    image_media_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    words: StyleText | None = None
    reading: Reading | None = None  # by the model that is served; None when it has read none yet

    @property
    def source(self) -> Literal["images", "text", "code"]:
        if self.image_media_type is not None:
            return "images"
        return "code" if self.words is None else "text"


def to_hash(style: Style, fingerprint: str) -> dict[str, str | int]:
    """The record's fields, with the reading of the model that has this fingerprint; what is None has none."""
    fields: dict[str, str | int | None] = {
        "format": ONE_PICTURE if style.source == "images" and style.num_images == 1 else ANY_SOURCE,
        "created": style.created,
        "num_images": style.num_images,
        "image_width": style.image_width,
        "image_height": style.image_height,
        "image_media_type": style.image_media_type,
        "name": style.name,
        "metadata": json.dumps(dict(style.metadata)) if style.metadata else None,
        "text": None if style.words is None else style.words.text,
        "seed": None if style.words is None else style.words.seed,
        reading_field(fingerprint): None if style.reading is None else style.reading.to_json(),
    }
    return {name: value for name, value in fields.items() if value is not None}


def reading_field(fingerprint: str) -> str:
    return f"reading:{fingerprint}"


def from_hash(style_id: str, fields: Mapping[bytes, bytes], fingerprint: str) -> Style:
    """The style that `fields` describe; ValueError says what is damaged. Fields it does not know are left to
    the version, or the model, that wrote them.
    """

    def text(name: str) -> str:
        if (value := fields.get(name.encode())) is None:
            raise ValueError(f"the record has no {name}")
        return value.decode()

    def number(name: str) -> int:
        value = text(name)
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"the record's {name} is {value!r}, not a number")
        return int(value)

    def has(name: str) -> bool:
        return name.encode() in fields

    if text("format") not in (ONE_PICTURE, ANY_SOURCE):
        raise ValueError(
            f"the record's format is {text('format')!r}; this version reads {ONE_PICTURE} and {ANY_SOURCE}"
        )
    has_image = text("format") == ONE_PICTURE or has("image_media_type")
    return Style(
        id=style_id,
        name=text("name") if has("name") else None,
        created=number("created"),
        num_images=number("num_images"),
        image_width=number("image_width") if has_image else None,
        image_height=number("image_height") if has_image else None,
        image_media_type=text("image_media_type") if has_image else None,
        metadata=_metadata(text("metadata")) if has("metadata") else {},
        words=StyleText(text("text"), number("seed")) if has("text") else None,
        reading=(
            Reading.from_json(text(reading_field(fingerprint))) if has(reading_field(fingerprint)) else None
        ),
    )


def _mark(tenant: str) -> str:
    """50 bits that stand for the tenant in its style IDs; none for the tenant without a name."""
    return "" if tenant == NAMELESS else _base32_digest(f"tenant {tenant}\n")[:10]


def _base32_digest(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()


def _metadata(text: str) -> dict[str, str]:
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"the record's metadata is {text!r}, not names and texts")
    return found
