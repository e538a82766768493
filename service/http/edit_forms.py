"""The body of POST /v1/images/edits: a form with files, as OpenAI's clients send it, or JSON."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from service.application.uploads import UploadedFile
from service.errors import InvalidRequest, UnsupportedMediaType
from service.http.bodies import FormBounds, json_of, observe_stages, opened_form, validated
from service.http.content_negotiation import JSON, MULTIPART, given_instead, media_type
from service.http.openapi import examples
from service.http.schemas.edits import MAX_INPUT_IMAGES, EditBody
from service.http.schemas.style_choices import MAX_REGIONS
from service.stage_timer import RequestTrace

# The pictures, the mask, markup and the masks of regions; one more, so that too many are told from enough.
BOUNDS = FormBounds(max_files=MAX_INPUT_IMAGES + MAX_REGIONS + 3, max_fields=128, max_part_size=2**20)
# Fields of a form are text: of these, numbers, flags, lists and objects are read as JSON.
_NUMBERS = frozenset(
    {
        *("n", "seed", "structure", "guidance", "strength", "alpha", "weight", "box"),
        *("output_compression", "partial_images", "frame_count", "frame_duration_ms"),
    }
)
_OBJECTS = frozenset({"style", "styles", "styles_each", "regions", "svg", "box"})
_FLAGS = {"true": True, "false": False}
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\]){0,3})")


_JSON_SCHEMA = {"$ref": "#/components/schemas/EditBody"}
_FILE = {"type": "string", "format": "binary"}
_FORM_FILES = {
    "image": {
        "anyOf": [_FILE, {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MAX_INPUT_IMAGES}]
    },
    "mask": _FILE,
    "markup": _FILE,
}
EDIT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {"allOf": [_JSON_SCHEMA], "properties": _FORM_FILES},
                "examples": examples.EDIT_FORMS,
            },
            JSON: {"schema": _JSON_SCHEMA, "examples": examples.EDITS},
        },
    }
}


@asynccontextmanager
async def edit_body(request: Request, trace: RequestTrace) -> AsyncIterator[EditBody]:
    """The body, whose files live as long as the context. A ServiceError says what is wrong with it."""
    kind = media_type(request.headers)
    if kind == JSON:
        with trace.stage("upload"):
            content = await request.body()
            body = await asyncio.to_thread(
                lambda: validated(EditBody, json_of(content))
            )  # megabytes of base64
        yield body
    elif kind == MULTIPART:
        async with opened_form(request, trace, BOUNDS) as form:
            yield validated(EditBody, nested(form.multi_items()))
    else:
        raise UnsupportedMediaType(
            f"The Content-Type must be {MULTIPART}, with files, or {JSON}, with pictures in base64, "
            f"{given_instead(kind)}."
        )
    observe_stages(request, trace)


def nested(fields: Iterable[tuple[str, str | UploadFile]]) -> dict[str, Any]:
    """The fields of a form as JSON would have them: `style[id]`, `image[]`, `regions[0][box]`.

    A field that is empty is left out, and so is `null`, as openai's package for Node tells its callers to
    write it; but a prompt may be that word. InvalidRequest for a name that is written in another way.
    """
    root: dict[str, Any] = {}
    for name, value in fields:
        found = _NAME.fullmatch(name)
        if found is None:
            raise _unreadable(name)
        keys = [found[1], *re.findall(r"\[([^\[\]]*)\]", found[2])]
        _insert(root, keys, _value(keys, value), name)
    return {name: _with_lists(value) for name, value in root.items()}


def _insert(node: dict[str, Any], keys: list[str], value: Any, name: str) -> None:
    key, *rest = keys
    if not key:  # of a list: the next place, or the last one while it lacks this part
        last = len(node) - 1
        has_place = bool(rest) and last >= 0 and rest[0] not in node.get(str(last), {})
        key = str(last if has_place else last + 1)
    if rest:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise _unreadable(name)
        _insert(child, rest, value, name)
    elif key not in node:
        node[key] = value
    else:
        node[key] = [*(node[key] if isinstance(node[key], list) else [node[key]]), value]


def _value(keys: list[str], value: str | UploadFile) -> Any:
    if isinstance(value, UploadFile):
        return UploadedFile(value.file, value.filename or "")
    text = value.strip()
    if not text or (text == "null" and keys != ["prompt"]):
        return None
    field = next((key for key in reversed(keys) if key and not key.isdecimal()), keys[0])
    if field == "stream":
        return _FLAGS.get(text.lower(), value)
    if field in _NUMBERS or (field in _OBJECTS and text[0] in "[{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return value
    return value


def _with_lists(value: Any) -> Any:
    """Objects whose names are numbers are lists."""
    if not isinstance(value, dict):
        return value
    parts = {name: _with_lists(part) for name, part in value.items()}
    if parts and all(name.isdecimal() for name in parts):
        return [parts[name] for name in sorted(parts, key=int)]
    return parts


def _unreadable(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"The form's field {name[:60]!r} cannot be read: a part of a field is written as style[id], and an "
        "entry of a list as image[] or regions[0][box].",
        param=name[:60],
        code="invalid_body",
    )
