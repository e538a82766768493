"""The bodies of POST /v1/styles: a form with pictures, or JSON with a text or a style code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from service.application.extract_style import PictureSource
from service.application.uploads import UploadedFile
from service.errors import InvalidRequest, UnsupportedMediaType
from service.http.bodies import FormBounds, json_of, observe_stages, opened_form, validated
from service.http.content_negotiation import JSON, MULTIPART, given_instead, media_type
from service.http.openapi import examples
from service.http.schemas.base import unknown_field
from service.http.schemas.styles import (
    MAX_METADATA,
    MAX_METADATA_CHARS,
    MAX_METADATA_NAME_CHARS,
    METADATA_SENTENCE,
    StyleForm,
    StyleOfCode,
    StyleOfWords,
    hidden_in_metadata,
    hidden_sentence,
    is_metadata,
)
from service.stage_timer import RequestTrace
from service.storage.schema import MAX_PICTURES
from service.styles.record import MAX_NAME_CHARS, MAX_SUFFIX_CHARS, hidden_character

# JSON of metadata at its bounds, each character escaped.
MAX_FIELD_BYTES = 2**14 + 12 * MAX_METADATA * (MAX_METADATA_NAME_CHARS + MAX_METADATA_CHARS)
BODY_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": StyleForm.model_json_schema(),
                "encoding": {"metadata": {"contentType": JSON}},
                "examples": examples.UPLOADS,
            },
            JSON: {
                "schema": {"oneOf": [StyleOfWords.model_json_schema(), StyleOfCode.model_json_schema()]},
                "examples": examples.SOURCES,
            },
        },
    }
}


@dataclass(frozen=True, slots=True)
class Upload:
    """A form with pictures. The files live as long as the form is open."""

    images: tuple[UploadFile, ...]
    name: str | None
    metadata: Mapping[str, str] | None
    prompt_suffix: str | None

    def source(self) -> PictureSource:
        return PictureSource(tuple(UploadedFile(image.file, image.filename or "") for image in self.images))


StyleBody = Upload | StyleOfWords | StyleOfCode


@asynccontextmanager
async def style_body(request: Request, trace: RequestTrace) -> AsyncIterator[StyleBody]:
    """The body, open while the context lasts; a ServiceError says what is wrong with it.

    At the end the stages of the request, other than those of the model, are observed.
    """
    kind = media_type(request.headers)
    if kind == JSON:
        with trace.stage("upload"):
            body = _text_or_code(json_of(await request.body()))
        yield body
    elif kind == MULTIPART:
        bounds = FormBounds(max_files=MAX_PICTURES + 1, max_fields=8, max_part_size=MAX_FIELD_BYTES)
        async with opened_form(request, trace, bounds) as form:
            yield _upload(form)
    else:
        raise UnsupportedMediaType(
            f"The Content-Type must be {MULTIPART}, with pictures, or {JSON}, with text or code, "
            f"{given_instead(kind)}."
        )
    observe_stages(request, trace)


def _text_or_code(found: Any) -> StyleOfWords | StyleOfCode:
    names = found if isinstance(found, dict) else {}
    if "text" in names and "code" in names:
        raise InvalidRequest(
            "A style is made from text or from a code: give one of the two.",
            param="code",
            code="conflicting_parameters",
        )
    return validated(StyleOfCode, found) if "code" in names else validated(StyleOfWords, found)


def _upload(form: FormData) -> Upload:
    for field in form:
        if field not in StyleForm.model_fields:
            problem = unknown_field(field, list(StyleForm.model_fields))
            raise InvalidRequest(problem.message(), param=field[:60], code=problem.type)
    return Upload(
        images=_images(form),
        name=_text(form, "name", MAX_NAME_CHARS),
        metadata=_metadata(form),
        prompt_suffix=_text(form, "prompt_suffix", MAX_SUFFIX_CHARS),
    )


def _images(form: FormData) -> tuple[UploadFile, ...]:
    images = tuple(part for part in form.getlist("image") if isinstance(part, UploadFile))
    if not images or len(images) < len(form.getlist("image")):
        raise InvalidRequest(
            "The form needs the file of a picture in the field image.",
            param="image",
            code="missing_required_parameter",
        )
    if len(images) > MAX_PICTURES:
        raise InvalidRequest(
            f"A style is made of up to {MAX_PICTURES} images; the form has more.", param="image"
        )
    return images


def _text(form: FormData, field: str, max_chars: int) -> str | None:
    given = form.getlist(field)
    if not given:
        return None
    if len(given) > 1 or not isinstance(given[0], str) or not 1 <= len(given[0].strip()) <= max_chars:
        raise InvalidRequest(f"The {field} must be one text of 1 to {max_chars} characters.", param=field)
    text = given[0].strip()
    if (character := hidden_character(text)) is not None:
        raise InvalidRequest(hidden_sentence(field, character), param=field)
    return text


def _metadata(form: FormData) -> dict[str, str] | None:
    given = form.getlist("metadata")
    if not given:
        return None
    found = _json_of(given[0]) if len(given) == 1 and isinstance(given[0], str) else None
    if not is_metadata(found):
        raise InvalidRequest(f"{METADATA_SENTENCE[:-1]}, as JSON.", param="metadata")
    assert isinstance(found, dict)
    if (sentence := hidden_in_metadata(found)) is not None:
        raise InvalidRequest(sentence, param="metadata")
    return found


def _json_of(text: str) -> Any:
    """None for what is not JSON, or holds half a surrogate pair, which cannot be stored as text."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found
