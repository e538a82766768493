"""Every error that a client can see, as the document shows it: when it comes, and an example of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.errors import kinds_of_codes
from service.http.schemas.base import ProblemResponse


@dataclass(frozen=True, slots=True)
class Failure:
    """When a code comes, and what an answer with it says."""

    when: str
    message: str
    param: str | None = None


FAILURES = {
    "invalid_value": Failure(
        "A field, query parameter or header is out of range or of the wrong type.",
        "n must be less than or equal to 10.",
        "n",
    ),
    "unknown_parameter": Failure(
        "A field that does not exist.", "There is no parameter styel. Did you mean style?", "styel"
    ),
    "missing_required_parameter": Failure("A field is missing.", "prompt is missing.", "prompt"),
    "unsupported_value": Failure(
        "A field with a value that others accept, and we do not.",
        "response_format cannot be 'url': images are not kept, so there is none. Use 'b64_json'.",
        "response_format",
    ),
    "unsupported_size": Failure(
        "The model has no such size; the message lists those it has.",
        "nano has no size 1024x1024; it draws 64x64 (auto is 64x64).",
        "size",
    ),
    "conflicting_parameters": Failure(
        "Fields that exclude each other.",
        "Give one of style, for one, styles, for a mixture, and styles_each, for images in each.",
        "styles",
    ),
    "invalid_json": Failure(
        "The body is not JSON.", "The body is not valid JSON: Expecting value at character 12."
    ),
    "invalid_body": Failure(
        "The body is no JSON object, or no form that can be read.", "The body must be a JSON object."
    ),
    "invalid_style_code": Failure(
        "A style code that is damaged.",
        "This is no sound style code: its checksum does not match, so characters were changed or lost. Copy "
        "the code again, whole, or upload the picture to get an ID.",
        "style",
    ),
    "foreign_style_code": Failure(
        "A style code of another model than the one that is served.",
        "This style code is of a model with the fingerprint 0123456789abcdef; nano, which this service draws "
        "with, has 7a5caf9790f06194. Use it where its model is served, or upload the picture here.",
        "style",
    ),
    "invalid_api_key": Failure(
        "No API key, or one that this service does not know.",
        "The request has no API key. Send one in the header `Authorization: Bearer atl_...`.",
    ),
    "style_not_found": Failure(
        "No such style, or one of another tenant.",
        "There is no style 'sty_tj2iudqh46neny27w4v5hzllhw'. Create one with POST /v1/styles, which answers "
        "its ID, or list those there are with GET /v1/styles.",
        "style",
    ),
    "style_image_not_found": Failure(
        "The style has no such picture.",
        "There is no picture 1 of style sty_tj2iudqh46neny27w4v5hzllhw, which has 1, counted from 0.",
        "index",
    ),
    "model_not_found": Failure(
        "Another model than the one that is served.",
        "This service draws with nano. Name that model, or none.",
        "model",
    ),
    "not_found": Failure("No such path.", "There is no /v1/image; /docs lists what there is."),
    "method_not_allowed": Failure(
        "The path has no such method; `Allow` lists those it has.",
        "PUT is not a method of /v1/styles; it has GET, POST.",
    ),
    "idempotency_key_in_use": Failure(
        "The first request with this Idempotency-Key is still running.",
        "The first request with this Idempotency-Key is still running. Send it again shortly, and its answer "
        "will be yours.",
        "Idempotency-Key",
    ),
    "payload_too_large": Failure(
        "The body has too many bytes, or a picture too many bytes or pixels.",
        "The upload is 12.5 MiB; at most 10 MiB are accepted.",
        "image",
    ),
    "unsupported_media_type": Failure(
        "Another Content-Type than the path takes, or an upload that is no picture of a known format.",
        "The Content-Type must be application/json, not text/plain.",
    ),
    "invalid_image": Failure(
        "A picture that is cut off, damaged, animated, too small or too elongated.",
        "The png picture is cut off or damaged. Save it again and upload that.",
        "image",
    ),
    "idempotency_key_reused": Failure(
        "Another request came with this Idempotency-Key before.",
        "This Idempotency-Key came with another request before. Send what you sent then, or choose a new key "
        "for what is new.",
        "Idempotency-Key",
    ),
    "rate_limit_exceeded": Failure(
        "The API key has asked for all that it may in this minute.",
        "This API key may ask for 60 images a minute. There is room for 4 more in 12 seconds.",
    ),
    "queue_full": Failure(
        "Too much work is waiting; `Retry-After` is an estimate of when it will be done.",
        "Free places in the queue: 2 of 64. The request needs 4; try again in 9 seconds.",
    ),
    "internal_error": Failure(
        "Something failed that nobody foresaw.",
        "Something failed on our side. The log has the details under this X-Request-ID.",
    ),
    "generation_failed": Failure(
        "The model failed on this job.",
        "The model failed on this job; the service's log says why. Trying again may help.",
    ),
    "style_damaged": Failure(
        "What the store keeps of the style cannot be read.",
        "The stored picture of style sty_tj2iudqh46neny27w4v5hzllhw is damaged. Upload its picture again, or "
        "send its words or its code again, which repairs it; or delete the style.",
    ),
    "not_ready": Failure("The service is starting or shutting down.", "The model is loading."),
    "store_unavailable": Failure(
        "The style store is away or full, or the disk takes no upload.",
        "The style store cannot be reached. Try again shortly; styles used recently keep working.",
    ),
    "deadline_exceeded": Failure(
        "The time of X-Request-Timeout, or of the service's own bound, is over.",
        "The deadline passed before the result was there; allow more time.",
    ),
}
# What middleware answers before the routing: on any path, and on those under /v1.
EVERYWHERE = ("invalid_value", "payload_too_large", "internal_error", "deadline_exceeded")
GUARDED = (*EVERYWHERE, "invalid_api_key", "rate_limit_exceeded", "not_ready")
# What a body of JSON, an Idempotency-Key and a look into the style store add.
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
    409: {"Retry-After": "Seconds until another look is worth it."},
    429: {"Retry-After": "Seconds until there should be room: computed, not a constant."},
    503: {"Retry-After": "Seconds until another try is worth it."},
}


def failures(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation that can fail with these codes, for FastAPI's `responses`."""
    kinds = kinds_of_codes()
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(kinds[code].status, []).append(code)
    return {status: _response(status, by_status[status]) for status in sorted(by_status)}


def table_of_codes() -> str:
    """Every code with its status and when it comes, as a table in Markdown."""
    kinds = kinds_of_codes()
    lines = [
        f"| `{code}` | {kinds[code].status} | {failure.when} |"
        for code, failure in sorted(FAILURES.items(), key=lambda each: (kinds[each[0]].status, each[0]))
    ]
    return "\n".join(["| code | status | when |", "|---|---|---|", *lines])


def _response(status: int, codes: list[str]) -> dict[str, Any]:
    return {
        "model": ProblemResponse,
        "description": " ".join(FAILURES[code].when for code in codes),
        "content": {"application/json": {"examples": {code: _example(code) for code in codes}}},
        "headers": {
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in _HEADERS.get(status, {}).items()
        },
    }


def _example(code: str) -> dict[str, Any]:
    failure = FAILURES[code]
    error = {
        "message": failure.message,
        "type": kinds_of_codes()[code].type,
        "param": failure.param,
        "code": code,
    }
    return {"summary": failure.when, "value": {"error": error}}
