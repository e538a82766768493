"""Every error that a client can see, as the OpenAPI document shows it: when it occurs, and an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.errors import kinds_of_codes
from service.http.schemas.base import ProblemResponse


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """When a code occurs, and the message and `param` of an example."""

    when: str
    message: str
    param: str | None = None


ERRORS = {
    "invalid_value": ErrorExample(
        "A field, query parameter or header is out of range or of the wrong type.",
        "n must be less than or equal to 10.",
        "n",
    ),
    "unknown_parameter": ErrorExample(
        "A field that does not exist.", "There is no parameter styel. Did you mean style?", "styel"
    ),
    "missing_required_parameter": ErrorExample("A field is missing.", "prompt is missing.", "prompt"),
    "unsupported_value": ErrorExample(
        "A field with a value that OpenAI accepts and this service does not.",
        "response_format cannot be 'url': images are not kept, so there is none. Use 'b64_json'.",
        "response_format",
    ),
    "unsupported_size": ErrorExample(
        "The model has no such size; the message lists those it has.",
        "nano has no size 1024x1024; it draws 64x64 (auto is 64x64).",
        "size",
    ),
    "conflicting_parameters": ErrorExample(
        "Fields that exclude each other.",
        "Give one of style, for one, styles, for a mixture, and styles_each, for images in each.",
        "styles",
    ),
    "invalid_json": ErrorExample(
        "The body is not JSON.", "The body is not valid JSON: Expecting value at character 12."
    ),
    "invalid_body": ErrorExample(
        "The body is no JSON object, or no form that can be read.", "The body must be a JSON object."
    ),
    "invalid_style_code": ErrorExample(
        "A style code that is damaged.",
        "This is no sound style code: its checksum does not match, so characters were changed or lost. Copy "
        "the code again, whole, or upload the picture to get an ID.",
        "style",
    ),
    "foreign_style_code": ErrorExample(
        "A style code of another model than the one that is served.",
        "This style code is of a model with the fingerprint 0123456789abcdef; nano, which this service draws "
        "with, has 7a5caf9790f06194. Use it where its model is served, or upload the picture here.",
        "style",
    ),
    "invalid_api_key": ErrorExample(
        "No API key, or one that this service does not know.",
        "The request has no API key. Send one in the header `Authorization: Bearer atl_...`.",
    ),
    "style_not_found": ErrorExample(
        "No such style, or one of another tenant.",
        "There is no style 'sty_tj2iudqh46neny27w4v5hzllhw'. Create one with POST /v1/styles, which answers "
        "its ID, or list those there are with GET /v1/styles.",
        "style",
    ),
    "style_image_not_found": ErrorExample(
        "The style has no such picture.",
        "There is no picture 1 of style sty_tj2iudqh46neny27w4v5hzllhw, which has 1, counted from 0.",
        "index",
    ),
    "model_not_found": ErrorExample(
        "Another model than the one that is served.",
        "This service draws with nano. Name that model, or none.",
        "model",
    ),
    "not_found": ErrorExample("No such path.", "There is no /v1/image; /docs lists what there is."),
    "method_not_allowed": ErrorExample(
        "The path has no such method; `Allow` lists those it has.",
        "PUT is not a method of /v1/styles; it has GET, POST.",
    ),
    "idempotency_key_in_use": ErrorExample(
        "The first request with this Idempotency-Key is still running.",
        "The first request with this Idempotency-Key is still running. Send it again shortly to get "
        "its response.",
        "Idempotency-Key",
    ),
    "payload_too_large": ErrorExample(
        "The body has too many bytes, or a picture too many bytes or pixels.",
        "The upload is 12.5 MiB; at most 10 MiB are accepted.",
        "image",
    ),
    "unsupported_media_type": ErrorExample(
        "Another Content-Type than the path takes, or an upload that is no picture of a known format.",
        "The Content-Type must be application/json, not text/plain.",
    ),
    "invalid_image": ErrorExample(
        "A picture that is cut off, damaged, animated, too small or too elongated.",
        "The png picture is cut off or damaged. Save it again and upload that.",
        "image",
    ),
    "idempotency_key_reused": ErrorExample(
        "Another request came with this Idempotency-Key before.",
        "This Idempotency-Key was sent with another request before. Send the same request again, or choose a "
        "new key for a new one.",
        "Idempotency-Key",
    ),
    "rate_limit_exceeded": ErrorExample(
        "The API key has used up its limit for this minute.",
        "This API key may ask for 60 images a minute. There is room for 4 more in 12 seconds.",
    ),
    "queue_full": ErrorExample(
        "Too much work is waiting; `Retry-After` is an estimate of when it will be done.",
        "Free places in the queue: 2 of 64. The request needs 4; try again in 9 seconds.",
    ),
    "internal_error": ErrorExample(
        "An unexpected failure.",
        "Something failed on our side. The log has the details under this X-Request-ID.",
    ),
    "generation_failed": ErrorExample(
        "The model failed on this job.",
        "The model failed on this job; the service's log says why. Trying again may help.",
    ),
    "style_damaged": ErrorExample(
        "What the store keeps of the style cannot be read.",
        "The stored picture of style sty_tj2iudqh46neny27w4v5hzllhw is damaged. Upload its picture again, or "
        "send its words or its code again, which repairs it; or delete the style.",
    ),
    "not_ready": ErrorExample("The service is starting or shutting down.", "The model is loading."),
    "store_unavailable": ErrorExample(
        "The style store is unreachable or full, or the disk is full.",
        "The style store cannot be reached. Try again shortly; styles used recently keep working.",
    ),
    "deadline_exceeded": ErrorExample(
        "The time of X-Request-Timeout, or the service's own bound, has passed.",
        "The deadline passed before the result was there; allow more time.",
    ),
}
# What middleware answers before routing: on any path, and on those under /v1.
EVERYWHERE = ("invalid_value", "payload_too_large", "internal_error", "deadline_exceeded")
GUARDED = (*EVERYWHERE, "invalid_api_key", "rate_limit_exceeded", "not_ready")
# What a JSON body, an Idempotency-Key and a lookup in the style store add.
JSON_BODY = (
    "unknown_parameter",
    "invalid_json",
    "invalid_body",
    "unsupported_media_type",
)
IDEMPOTENCY = ("idempotency_key_in_use", "idempotency_key_reused", "store_unavailable")
# A style that the model has not read yet is read when it is asked for.
STYLE_LOOKUP = (
    "style_not_found",
    "style_damaged",
    "store_unavailable",
    "queue_full",
    "generation_failed",
    "foreign_style_code",
)
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": "How to send the API key."},
    409: {"Retry-After": "Seconds until the request should be sent again."},
    429: {"Retry-After": "Seconds until there should be room: computed, not a constant."},
    503: {"Retry-After": "Seconds until the request should be sent again."},
}


def error_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation that can fail with these codes, for FastAPI's `responses`."""
    kinds = kinds_of_codes()
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(kinds[code].status, []).append(code)
    return {status: _response(status, by_status[status]) for status in sorted(by_status)}


def table_of_codes() -> str:
    """Every code with its status and when it occurs, as a table in Markdown."""
    kinds = kinds_of_codes()
    lines = [
        f"| `{code}` | {kinds[code].status} | {error.when} |"
        for code, error in sorted(ERRORS.items(), key=lambda pair: (kinds[pair[0]].status, pair[0]))
    ]
    return "\n".join(["| code | status | when |", "|---|---|---|", *lines])


def _response(status: int, codes: list[str]) -> dict[str, Any]:
    return {
        "model": ProblemResponse,
        "description": " ".join(ERRORS[code].when for code in codes),
        "content": {"application/json": {"examples": {code: _example(code) for code in codes}}},
        "headers": {
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in _HEADERS.get(status, {}).items()
        },
    }


def _example(code: str) -> dict[str, Any]:
    example = ERRORS[code]
    error = {
        "message": example.message,
        "type": kinds_of_codes()[code].type,
        "param": example.param,
        "code": code,
    }
    return {"summary": example.when, "value": {"error": error}}
