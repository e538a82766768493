"""The responses of each operation in the OpenAPI document: successes and errors."""

from __future__ import annotations

from typing import Any

from service.http.openapi import examples
from service.http.openapi.document import EDIT_EVENTS, GENERATION_EVENTS, JOB_EVENTS, event_stream
from service.http.openapi.errors import (
    EVERYWHERE,
    GUARDED,
    IDEMPOTENCY,
    JSON_BODY,
    STYLE_LOOKUP,
    described,
    error_responses,
)
from service.http.schemas.jobs import JobResponse
from service.http.schemas.styles import StyleResponse
from service.media.images import OutputFormat

Responses = dict[int | str, dict[str, Any]]


def _example(value: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {"content": {media_type: {"examples": {"example": {"value": value}}}}}


_REPLAYED = {"Idempotent-Replayed": "`true` on the response to a request that was answered before."}
_STORED = described({"Location": "Where the style is: `/v1/styles/{id}`.", **_REPLAYED})
_PREFERRED = {"Preference-Applied": "`respond-async`, where the request preferred that."}
_RAW = {
    "X-Native-Size": "The size at which the images were drawn, where another was asked for.",
    "X-Seed": "Of a raw image: its seed.",
    "X-Warnings": "Of a raw image: its warnings.",
}


def _guarded(success: dict[str, Any], *codes: str) -> Responses:
    """The responses of an operation under /v1 that can fail with these codes, too."""
    return {200: success, **error_responses(*GUARDED, *codes)}


def _open(success: dict[str, Any], *codes: str) -> Responses:
    """The same of an operation that needs no API key."""
    return {200: success, **error_responses(*EVERYWHERE, *codes)}


# Of a request that is answered with a job; every route that draws has it.
ACCEPTED: dict[str, Any] = {
    "model": JobResponse,
    "description": "With `Prefer: respond-async`: the job that draws this.",
    "headers": described({"Location": "Where the job is: `/v1/jobs/{id}`.", **_PREFERRED, **_REPLAYED}),
    **_example(examples.JOB),
}
_DRAWING = (
    *JSON_BODY,
    *IDEMPOTENCY,
    *STYLE_LOOKUP,
    "missing_required_parameter",
    "unsupported_value",
    "unsupported_size",
    "conflicting_parameters",
    "invalid_style_code",
    "invalid_image",
    "model_not_found",
    "not_acceptable",
)
GENERATE = _guarded(
    {
        "content": _example(examples.GENERATION)["content"]
        | event_stream(examples.STREAM, GENERATION_EVENTS)
        | {f"image/{output.value}": {} for output in OutputFormat},
        "headers": described(_REPLAYED | _RAW),
    },
    *_DRAWING,
)
EDIT = _guarded(
    {
        "content": _example(examples.EDITED)["content"]
        | event_stream(examples.EDIT_STREAM, EDIT_EVENTS)
        | {f"image/{output.value}": {} for output in OutputFormat},
        "headers": described(_REPLAYED | _RAW),
    },
    *_DRAWING,
)
GENERATE[202] = EDIT[202] = ACCEPTED
_CREATED = {"description": "The style is new.", "headers": _STORED, **_example(examples.STYLE)}
_EXISTED = _CREATED | {"model": StyleResponse, "description": "The style existed before."}
CREATE_STYLE = _guarded(
    _EXISTED,
    *JSON_BODY,
    *IDEMPOTENCY,
    "missing_required_parameter",
    "conflicting_parameters",
    "invalid_style_code",
    "foreign_style_code",
    "style_quota_exceeded",
    "invalid_image",
    "queue_full",
    "generation_failed",
    "style_damaged",
)
CREATE_STYLE[201] = _CREATED
LIST_STYLES = _guarded(_example(examples.STYLES), "unknown_parameter", "store_unavailable")
GET_STYLE = _guarded(_example(examples.STYLE), *STYLE_LOOKUP, "invalid_style_code")
GET_STYLE_IMAGE = _guarded(
    _example("RIFF...WEBPVP8L...", "image/webp"),
    "unknown_parameter",
    "style_not_found",
    "style_image_not_found",
    "style_damaged",
    "store_unavailable",
)
CHANGE_STYLE = _guarded(_example(examples.STYLE), *JSON_BODY, *STYLE_LOOKUP, "style_quota_exceeded")
DELETE_STYLE = _guarded(
    _example({"id": examples.STYLE_ID, "object": "style.deleted", "deleted": True}),
    "style_not_found",
    "store_unavailable",
)
LIST_JOBS = _guarded(_example(examples.JOBS), "unknown_parameter", "store_unavailable")
_JOB_LOOKUP = ("job_not_found", "store_unavailable")
_OF_JOB = {
    "content": {
        "application/json": {
            "examples": {
                "running": {"value": examples.RUNNING_JOB},
                "succeeded": {"value": examples.SUCCEEDED_JOB},
            }
        }
    }
}
# What the `error` of a job can have, besides what its endpoint answers, has the status of these.
GET_JOB = _guarded(_OF_JOB, *_JOB_LOOKUP, "result_too_large", "attempts_exhausted")
GET_JOB_PREVIEW = _guarded(_example("\u0089PNG...", "image/png"), *_JOB_LOOKUP, "job_preview_not_found")
GET_JOB_EVENTS = _guarded({"content": event_stream(examples.JOB_STREAM, JOB_EVENTS)}, *_JOB_LOOKUP)
CANCEL_JOB = _guarded(_example(examples.CANCELLED_JOB), *_JOB_LOOKUP)
LIST_MODELS = _guarded(_example({"object": "list", "data": [examples.MODEL]}))
GET_MODEL = _guarded(_example(examples.MODEL), "model_not_found")
LIVE = _open(_example({"status": "live"}))
READY = _open(_example({"status": "ready", "model": "ready", "store": "ready"}), "not_ready")
METRICS = _open(_example("atelier_images_total 3.0", "text/plain"))
VERSION = _open(_example({"version": "0.1.0", "row_tile": 8, "is_batch_invariant": True}))
