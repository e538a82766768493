"""The responses of each operation in the OpenAPI document: successes and errors."""

from __future__ import annotations

from typing import Any

from service.http.openapi import examples
from service.http.openapi.document import event_stream
from service.http.openapi.errors import (
    EVERYWHERE,
    GUARDED,
    IDEMPOTENCY,
    JSON_BODY,
    STYLE_LOOKUP,
    error_responses,
)
from service.http.schemas.styles import StyleResponse
from service.media.images import OutputFormat

Responses = dict[int | str, dict[str, Any]]


def _json(**by_name: Any) -> dict[str, Any]:
    """A JSON response with these examples; underscores in names become spaces."""
    named = {name.replace("_", " "): {"value": value} for name, value in by_name.items()}
    return {"content": {"application/json": {"examples": named}}}


def _text(media_type: str, **by_name: str) -> dict[str, Any]:
    return {"content": {media_type: {"examples": {name: {"value": text} for name, text in by_name.items()}}}}


def _headers(**by_name: str) -> dict[str, Any]:
    """These headers with their descriptions; underscores in names become hyphens."""
    return {
        name.replace("_", "-"): {"description": description, "schema": {"type": "string"}}
        for name, description in by_name.items()
    }


_REPLAYED = _headers(Idempotent_Replayed="`true` on the answer to a request that was answered before.")
_LOCATION = _headers(Location="Where the style is: `/v1/styles/{id}`.")
_RAW = _headers(X_Seed="Of a raw image: its seed.", X_Warnings="Of a raw image: its warnings.")
_DRAWN = _json(in_a_style=examples.GENERATION, of_each=examples.OF_EACH, of_a_mixture=examples.OF_MIXTURE)
GENERATE: Responses = {
    200: {
        "content": _DRAWN["content"]
        | event_stream(examples.STREAM)
        | {f"image/{output.value}": {} for output in OutputFormat},
        "headers": _REPLAYED | _RAW,
    },
    **error_responses(
        *GUARDED,
        *JSON_BODY,
        *IDEMPOTENCY,
        *STYLE_LOOKUP,
        "missing_required_parameter",
        "unsupported_value",
        "unsupported_size",
        "conflicting_parameters",
        "invalid_style_code",
        "model_not_found",
    ),
}
CREATE_STYLE: Responses = {
    201: {"description": "The style is new.", "headers": _LOCATION | _REPLAYED, **_json(new=examples.STYLE)},
    200: {
        "model": StyleResponse,
        "description": "This style was there before.",
        "headers": _LOCATION | _REPLAYED,
        **_json(known=examples.STYLE),
    },
    **error_responses(
        *GUARDED,
        *JSON_BODY,
        *IDEMPOTENCY,
        "missing_required_parameter",
        "conflicting_parameters",
        "invalid_style_code",
        "foreign_style_code",
        "invalid_image",
        "queue_full",
        "generation_failed",
        "style_damaged",
    ),
}
LIST_STYLES: Responses = {
    200: _json(page=examples.STYLES),
    **error_responses(*GUARDED, "unknown_parameter", "store_unavailable"),
}
GET_STYLE: Responses = {
    200: _json(style=examples.STYLE),
    **error_responses(*GUARDED, *STYLE_LOOKUP, "invalid_style_code"),
}
GET_STYLE_IMAGE: Responses = {
    200: _text("image/webp", picture=examples.WEBP),
    **error_responses(
        *GUARDED,
        "unknown_parameter",
        "style_not_found",
        "style_image_not_found",
        "style_damaged",
        "store_unavailable",
    ),
}
CHANGE_STYLE: Responses = {
    200: _json(renamed={**examples.STYLE, "name": "reeds at night"}),
    **error_responses(*GUARDED, *JSON_BODY, *STYLE_LOOKUP),
}
DELETE_STYLE: Responses = {
    200: _json(deleted=examples.DELETED),
    **error_responses(*GUARDED, "style_not_found", "store_unavailable"),
}
LIST_MODELS: Responses = {
    200: _json(models={"object": "list", "data": [examples.MODEL]}),
    **error_responses(*GUARDED),
}
GET_MODEL: Responses = {200: _json(model=examples.MODEL), **error_responses(*GUARDED, "model_not_found")}
LIVE: Responses = {200: _json(live={"status": "live"}), **error_responses(*EVERYWHERE)}
READY: Responses = {
    200: _json(
        ready={"status": "ready", "model": "ready", "store": "ready"},
        without_a_store={"status": "ready", "model": "ready", "store": "unavailable"},
    ),
    **error_responses(*EVERYWHERE, "not_ready"),
}
METRICS: Responses = {200: _text("text/plain", text=examples.METRICS), **error_responses(*EVERYWHERE)}
VERSION: Responses = {
    200: _json(version={"version": "0.1.0", "row_tile": 8, "is_batch_invariant": True}),
    **error_responses(*EVERYWHERE),
}
