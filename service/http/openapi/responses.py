"""The responses of each operation, as the document tells them: successes and failures."""

from __future__ import annotations

from typing import Any

from service.http.openapi import examples
from service.http.openapi.document import event_stream
from service.http.openapi.errors import EVERYWHERE, GUARDED, IDEMPOTENCY, JSON_BODY, STYLE_LOOKUP, failures
from service.http.schemas.styles import StyleResponse
from service.media.images import OutputFormat

Responses = dict[int | str, dict[str, Any]]


def _json(**by_name: Any) -> dict[str, Any]:
    """A response of JSON with these examples; underscores in names are blanks."""
    named = {name.replace("_", " "): {"value": value} for name, value in by_name.items()}
    return {"content": {"application/json": {"examples": named}}}


def _text(media_type: str, **by_name: str) -> dict[str, Any]:
    return {"content": {media_type: {"examples": {name: {"value": text} for name, text in by_name.items()}}}}


def _headers(**by_name: str) -> dict[str, Any]:
    """These headers with their descriptions; underscores in names are hyphens."""
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
    **failures(
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
    **failures(
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
    **failures(*GUARDED, "unknown_parameter", "store_unavailable"),
}
GET_STYLE: Responses = {
    200: _json(style=examples.STYLE),
    **failures(*GUARDED, *STYLE_LOOKUP, "invalid_style_code"),
}
GET_STYLE_IMAGE: Responses = {
    200: _text("image/webp", picture=examples.WEBP),
    **failures(
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
    **failures(*GUARDED, *JSON_BODY, *STYLE_LOOKUP),
}
DELETE_STYLE: Responses = {
    200: _json(deleted=examples.DELETED),
    **failures(*GUARDED, "style_not_found", "store_unavailable"),
}
LIST_MODELS: Responses = {
    200: _json(models={"object": "list", "data": [examples.MODEL]}),
    **failures(*GUARDED),
}
GET_MODEL: Responses = {200: _json(model=examples.MODEL), **failures(*GUARDED, "model_not_found")}
LIVE: Responses = {200: _json(live={"status": "live"}), **failures(*EVERYWHERE)}
READY: Responses = {
    200: _json(
        ready={"status": "ready", "model": "ready", "store": "ready"},
        without_a_store={"status": "ready", "model": "ready", "store": "unavailable"},
    ),
    **failures(*EVERYWHERE, "not_ready"),
}
METRICS: Responses = {200: _text("text/plain", text=examples.METRICS), **failures(*EVERYWHERE)}
VERSION: Responses = {
    200: _json(version={"version": "0.1.0", "row_tile": 8, "is_batch_invariant": True}),
    **failures(*EVERYWHERE),
}
