"""The errors of the OpenAPI document, from the classes of service/errors.py."""

from __future__ import annotations

from typing import Any

from service.errors import ClientDisconnected, kinds_of_codes
from service.http.schemas.base import ProblemResponse

KINDS = {code: kind for code, kind in kinds_of_codes().items() if kind is not ClientDisconnected}
# What middleware answers before routing: on any path, and on those under /v1.
EVERYWHERE = (
    "invalid_value",
    "malformed_request",
    "request_timeout",
    "payload_too_large",
    "queue_full",
    "header_too_large",
    "internal_error",
    "too_many_connections",
    "deadline_exceeded",
)
GUARDED = (
    *EVERYWHERE,
    "invalid_api_key",
    "host_not_allowed",
    "cross_site_request",
    "rate_limit_exceeded",
    "not_ready",
)
# What a JSON body, an Idempotency-Key and a lookup in the style store add.
JSON_BODY = ("unknown_parameter", "invalid_json", "invalid_body", "unsupported_media_type")
IDEMPOTENCY = ("idempotency_key_in_use", "idempotency_key_reused", "store_unavailable")
# A style that the model has not analysed yet is analysed when it is requested.
STYLE_LOOKUP = (
    "style_not_found",
    "style_damaged",
    "store_unavailable",
    "queue_full",
    "generation_failed",
    "foreign_style_code",
)
_RETRY_AFTER = {"Retry-After": "Seconds until the request should be sent again."}
_HEADERS = {
    401: {"WWW-Authenticate": "How to send the API key."},
    409: _RETRY_AFTER,
    429: {"Retry-After": "Seconds until it is worth asking again; for images and rates, computed."},
    503: _RETRY_AFTER,
}


def described(headers: dict[str, str]) -> dict[str, Any]:
    """Headers with these descriptions."""
    return {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in headers.items()
    }


def error_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation that can fail with these codes, for FastAPI's `responses`."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({KINDS[code].status for code in codes}):
        examples = {code: _example(code) for code in codes if KINDS[code].status == status}
        responses[status] = {
            "model": ProblemResponse,
            "description": " ".join(example["summary"] for example in examples.values()),
            "content": {"application/json": {"examples": examples}},
            "headers": described(_HEADERS.get(status, {})),
        }
    return responses


def table_of_codes() -> str:
    """Every code with its status and when it occurs, as a table in Markdown."""
    lines = [
        f"| `{code}` | {kind.status} | {kind.codes()[code]} |"
        for code, kind in sorted(KINDS.items(), key=lambda pair: (pair[1].status, pair[0]))
    ]
    return "\n".join(["| code | status | when |", "|---|---|---|", *lines])


def _example(code: str) -> dict[str, Any]:
    kind = KINDS[code]
    when = kind.codes()[code]
    error = {"message": when, "type": kind.type, "param": None, "code": code}
    return {"summary": when, "value": {"error": error}}
