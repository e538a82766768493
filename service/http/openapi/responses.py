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
    described,
    error_responses,
)
from service.http.schemas.styles import StyleResponse
from service.media.images import OutputFormat

Responses = dict[int | str, dict[str, Any]]


def _example(value: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {"content": {media_type: {"examples": {"example": {"value": value}}}}}


_REPLAYED = {"Idempotent-Replayed": "`true` on the response to a request that was answered before."}
_STORED = described({"Location": "Where the style is: `/v1/styles/{id}`.", **_REPLAYED})
_RAW = {"X-Seed": "Of a raw image: its seed.", "X-Warnings": "Of a raw image: its warnings."}
GENERATE: Responses = {
    200: {
        "content": _example(examples.GENERATION)["content"]
        | event_stream(examples.STREAM)
        | {f"image/{output.value}": {} for output in OutputFormat},
        "headers": described(_REPLAYED | _RAW),
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
    201: {"description": "The style is new.", "headers": _STORED, **_example(examples.STYLE)},
    200: {
        "model": StyleResponse,
        "description": "The style existed before.",
        "headers": _STORED,
        **_example(examples.STYLE),
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
    200: _example(examples.STYLES),
    **error_responses(*GUARDED, "unknown_parameter", "store_unavailable"),
}
GET_STYLE: Responses = {
    200: _example(examples.STYLE),
    **error_responses(*GUARDED, *STYLE_LOOKUP, "invalid_style_code"),
}
GET_STYLE_IMAGE: Responses = {
    200: _example("RIFF...WEBPVP8L...", "image/webp"),
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
    200: _example(examples.STYLE),
    **error_responses(*GUARDED, *JSON_BODY, *STYLE_LOOKUP),
}
DELETE_STYLE: Responses = {
    200: _example({"id": examples.STYLE_ID, "object": "style.deleted", "deleted": True}),
    **error_responses(*GUARDED, "style_not_found", "store_unavailable"),
}
LIST_MODELS: Responses = {
    200: _example({"object": "list", "data": [examples.MODEL]}),
    **error_responses(*GUARDED),
}
GET_MODEL: Responses = {200: _example(examples.MODEL), **error_responses(*GUARDED, "model_not_found")}
LIVE: Responses = {200: _example({"status": "live"}), **error_responses(*EVERYWHERE)}
READY: Responses = {
    200: _example({"status": "ready", "model": "ready", "store": "ready"}),
    **error_responses(*EVERYWHERE, "not_ready"),
}
METRICS: Responses = {
    200: _example("atelier_images_total 3.0", "text/plain"),
    **error_responses(*EVERYWHERE),
}
VERSION: Responses = {
    200: _example({"version": "0.1.0", "row_tile": 8, "is_batch_invariant": True}),
    **error_responses(*EVERYWHERE),
}
