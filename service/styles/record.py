"""Style, what users see of one, and the record it is kept as: a Redis hash that people can read."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from service.errors import ServiceError, StyleNotFound

log = structlog.get_logger(__name__)

FORMAT = "1"
# The tenant without a name has the styles of a service without API keys.
NAMELESS = ""
_ID = re.compile(r"sty_([a-z2-7]{10})?[a-z2-7]{26}")


def style_id_of(picture_digests: Sequence[str], *, tenant: str = NAMELESS) -> str:
    """The content address of a style: the same sources, the same ID, on every replica and after a restart.

    130 bits of a SHA-256 over one line for each source. Whatever else may one day tell two styles apart (such
    as words) becomes a line of its own, so that the IDs given out before stay what they are. In front of them
    the mark of the tenant, so that an ID alone says whose style it is: without a look at the store, which
    could tell others by its answer or by its time what is there.
    """
    lines = [f"picture {digest}\n" for digest in picture_digests]
    if tenant != NAMELESS:
        lines.append(f"tenant {tenant}\n")
    return f"sty_{_mark(tenant)}{_base32_digest(''.join(lines))[:26]}"


def not_found(style_id: str, *, param: str | None = None) -> StyleNotFound:
    """The error for a style that is not there, be it never created, deleted or not even an ID."""
    return StyleNotFound(
        f"There is no style {style_id[:64]!r}. Create one with POST /v1/styles, which answers its ID, "
        "or list those there are with GET /v1/styles.",
        param=param,
    )


def damaged(style_id: str, part: str, reason: ValueError) -> ServiceError:
    """The error for a style whose `part` cannot be read; logs the reason."""
    log.error("style_damaged", style_id=style_id, part=part, reason=str(reason))
    return ServiceError(
        f"The stored {part} of style {style_id} is damaged. Upload its picture again, which repairs it, "
        "or delete the style.",
        code="style_damaged",
    )


def is_style_id(text: str, *, tenant: str = NAMELESS) -> bool:
    """Whether it has the form of an ID of this tenant's; only such text ever becomes part of a store key."""
    match = _ID.fullmatch(text)
    return match is not None and (match[1] or "") == _mark(tenant)


@dataclass(frozen=True, slots=True)
class Style:
    id: str
    name: str | None
    created: int  # seconds since 1970
    num_images: int
    image_width: int  # of the first style image, as stored
    image_height: int
    image_media_type: str


def to_hash(style: Style) -> dict[str, str | int]:
    """The record's fields; a style without a name has no such field."""
    fields: dict[str, str | int] = {
        "format": FORMAT,
        "created": style.created,
        "num_images": style.num_images,
        "image_width": style.image_width,
        "image_height": style.image_height,
        "image_media_type": style.image_media_type,
    }
    if style.name is not None:
        fields["name"] = style.name
    return fields


def from_hash(style_id: str, fields: Mapping[bytes, bytes]) -> Style:
    """The style that `fields` describe; ValueError says what is damaged. Fields it does not know are left to
    the version that wrote them.
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

    if text("format") != FORMAT:
        raise ValueError(f"the record's format is {text('format')!r}; this version reads {FORMAT}")
    return Style(
        id=style_id,
        name=text("name") if b"name" in fields else None,
        created=number("created"),
        num_images=number("num_images"),
        image_width=number("image_width"),
        image_height=number("image_height"),
        image_media_type=text("image_media_type"),
    )


def _mark(tenant: str) -> str:
    """50 bits that stand for the tenant in its style IDs; none for the tenant without a name."""
    return "" if tenant == NAMELESS else _base32_digest(f"tenant {tenant}\n")[:10]


def _base32_digest(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()
