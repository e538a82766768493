"""Style: what users see of one, its ID, and its record, a Redis hash that people can read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import structlog
from pydantic import TypeAdapter, ValidationError

from service.errors import StyleDamaged, StyleNotFound, StyleQuotaExceeded
from service.model.style.feature import StyleFeature, dominance
from service.model.style.tokens import PREPARATION
from service.storage.schema import MAX_PICTURES, NO_TENANT, Quota
from service.styles.style_code import StyleCodec, is_code

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StyleText:
    """What a style without pictures is made of."""

    text: str
    seed: int


MAX_NAME_CHARS = 200
MAX_SUFFIX_CHARS = 500
# Format 1 is a style of one picture, also as the first version wrote it; that version refuses format 2.
ONE_PICTURE, ANY_SOURCE = "1", "2"
_HIDDEN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")
_ID = re.compile(r"sty_([a-z2-7]{10})?[a-z2-7]{26}")


def style_id_of(
    picture_digests: Sequence[str] = (),
    *,
    text: StyleText | None = None,
    code: str | None = None,
    tenant: str = NO_TENANT,
) -> str:
    """The content address of a style: the same sources, the same ID, on every replica and after a restart.

    130 bits of a SHA-256 over one line for each source. Pictures are a set: their order does not matter, as
    it does not in their mean. The mark of the tenant comes first, so that an ID alone says whose style it is:
    looking that up in the store could reveal other tenants' styles by the response or its timing.
    """
    lines = [f"picture {digest}\n" for digest in sorted(picture_digests)]
    if text is not None:
        lines.append(f"words {text.seed} {hashlib.sha256(text.text.encode()).hexdigest()}\n")
    if code is not None:
        lines.append(f"code {code}\n")
    if tenant != NO_TENANT:
        lines.append(f"tenant {tenant}\n")
    return f"sty_{_mark(tenant)}{_base32_digest(''.join(lines))[:26]}"


def not_found(style_id: str, *, param: str | None = None) -> StyleNotFound:
    """The error for a style that does not exist: never created, deleted, or not a valid ID."""
    if is_code(style_id):
        return StyleNotFound(
            "A style code is not kept here, so it has no picture and nothing to change or delete. "
            'POST /v1/styles {"code": ...} stores it and returns an ID.',
            param=param,
        )
    return StyleNotFound(
        f"There is no style {style_id[:64]!r}. Create one with POST /v1/styles, which returns its ID, "
        "or list the existing ones with GET /v1/styles.",
        param=param,
    )


def hidden_character(text: str, *, may_break: bool = False) -> str | None:
    """The first character, as U+0000, that is not shown or changes how others are: a control character, or
    one that overrides the direction. With `may_break`, tabs and line breaks are allowed.
    """
    for match in _HIDDEN.finditer(text):
        if not (may_break and match[0] in "\t\n\r"):
            return f"U+{ord(match[0]):04X}"
    return None


def over_quota(num_styles: int, num_bytes: int, quota: Quota) -> StyleQuotaExceeded:
    """The error for a style, or a change of one, that has no room; says what is used and what makes room."""
    bounds = [
        f"{used}, of at most {bound}"
        for used, bound in (
            (f"{num_styles:,} styles", None if quota.styles is None else f"{quota.styles:,}"),
            (f"{num_bytes:,} bytes", None if quota.bytes is None else f"{quota.bytes:,}"),
        )
        if bound is not None
    ]
    return StyleQuotaExceeded(
        f"There is no room for this: {' and '.join(bounds)}, are in use. Delete styles that are no longer "
        "needed (DELETE /v1/styles/{id}), or ask the operator for more: with `styles=` and `bytes=` in the "
        "line of the API key, or ATELIER_MAX_STYLES and ATELIER_MAX_STYLE_BYTES."
    )


def no_picture(style_id: str, number: int, num_pictures: int) -> StyleNotFound:
    """The error for a picture that an existing style does not have."""
    has = f"has {num_pictures}, counted from 0" if num_pictures else "was made without pictures"
    return StyleNotFound(
        f"There is no picture {number} of style {style_id}, which {has}.",
        param="index",
        code="style_image_not_found",
    )


def damaged(style_id: str, part: str, reason: Exception) -> StyleDamaged:
    """The error for a style whose `part` cannot be read; logs the reason."""
    log.error("style_damaged", style_id=style_id, part=part, reason=str(reason))
    return StyleDamaged(
        f"The stored {part} of style {style_id} is damaged. Upload its picture again, or send its "
        "text or its code again, which repairs it; or delete the style."
    )


def is_style_id(text: str, *, tenant: str = NO_TENANT) -> bool:
    """Whether it has the form of an ID of this tenant; only such text becomes part of a store key."""
    match = _ID.fullmatch(text)
    return match is not None and (match[1] or "") == _mark(tenant)


@dataclass(frozen=True, slots=True)
class StyleAnalysis:
    """What one model found in a style: of the feature at its default size. Stored as readable JSON."""

    code: str
    singular_values: tuple[float, ...]  # descending
    dominance: float  # of the first component, 0 to 1
    agreement: float | None  # between the pictures, -1 to 1; None where there is one

    def to_json(self) -> str:
        return json.dumps(asdict(self))


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
    prompt_suffix: str | None = None  # goes to the end of each prompt that is drawn in the style
    source_text: StyleText | None = None
    analysis: StyleAnalysis | None = None  # by the model that is served; None until it has analysed the style

    @property
    def source(self) -> Literal["images", "text", "code"]:
        if self.image_media_type is not None:
            return "images"
        return "code" if self.source_text is None else "text"


_STYLE = TypeAdapter(Style)


def to_hash(style: Style, fingerprint: str) -> dict[str, str | int]:
    """The record's fields, with the analysis of the model that has this fingerprint. None is left out."""
    fields: dict[str, str | int | None] = {
        "format": ONE_PICTURE if style.source == "images" and style.num_images == 1 else ANY_SOURCE,
        "created": style.created,
        "num_images": style.num_images,
        "image_width": style.image_width,
        "image_height": style.image_height,
        "image_media_type": style.image_media_type,
        "name": style.name,
        "metadata": json.dumps(dict(style.metadata)) if style.metadata else None,
        "prompt_suffix": style.prompt_suffix,
        "text": None if style.source_text is None else style.source_text.text,
        "seed": None if style.source_text is None else style.source_text.seed,
        analysis_field(fingerprint, has_pictures=style.source == "images"): None
        if style.analysis is None
        else style.analysis.to_json(),
    }
    return {name: value for name, value in fields.items() if value is not None}


def analysis_field(fingerprint: str, *, has_pictures: bool) -> str:
    """Of pictures, that of this version's preparation; tokens of a text or a code were never a picture."""
    return f"reading:{fingerprint}.{PREPARATION}" if has_pictures else f"reading:{fingerprint}"


def from_hash(style_id: str, fields: Mapping[bytes, bytes], fingerprint: str) -> Style:
    """The style that `fields` describe; ValueError says what is damaged. Unknown fields, which another
    version or another model wrote, are ignored.
    """
    record: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
    if record.get("format") not in (ONE_PICTURE, ANY_SOURCE):
        raise ValueError(
            f"the record's format is {record.get('format')!r}, not {ONE_PICTURE} or {ANY_SOURCE}"
        )
    if record["format"] == ONE_PICTURE and "image_media_type" not in record:
        raise ValueError("the record has no image_media_type")
    field_of_analysis = analysis_field(fingerprint, has_pictures="image_media_type" in record)
    found = {
        "id": style_id,
        "name": None,
        **record,
        "metadata": _json(record, "metadata", "{}"),
        "source_text": {"text": record["text"], "seed": record.get("seed")} if "text" in record else None,
        "analysis": _json(record, field_of_analysis, "null"),
    }
    try:
        style = _STYLE.validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"the record's {name} is {first['input']!r}: {first['msg']}") from error
    if style.source == "images" and not 1 <= style.num_images <= MAX_PICTURES:
        raise ValueError(f"the record's num_images is {style.num_images}")
    if not (style.image_media_type or "image/").startswith("image/"):  # clients are sent it as it is
        raise ValueError(f"the record's image_media_type is {style.image_media_type!r}")
    return style


def _json(record: Mapping[str, str], field: str, otherwise: str) -> Any:
    try:
        return json.loads(record.get(field, otherwise))
    except RecursionError as error:
        raise ValueError(f"the record's {field} is nested too deeply") from error


def _mark(tenant: str) -> str:
    """50 bits that stand for the tenant in its style IDs; none for NO_TENANT."""
    return "" if tenant == NO_TENANT else _base32_digest(f"tenant {tenant}\n")[:10]


def _base32_digest(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()


def analyse_style(feature: StyleFeature, codec: StyleCodec, agreement: float | None) -> StyleAnalysis:
    """The analysis of a feature, its numbers to six digits: what a float32 holds."""
    return StyleAnalysis(
        code=codec.write(feature.tokens),
        singular_values=tuple(_rounded(value) for value in feature.singular_values),
        dominance=_rounded(dominance(feature)),
        agreement=None if agreement is None else _rounded(agreement),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
