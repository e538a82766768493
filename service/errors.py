"""The errors that a client can see, and their HTTP statuses.

ServiceError
 +- InvalidRequest        400  a field is missing, unknown or out of range; `param` names it
 +- InvalidApiKey         401
 +- StyleNotFound         404
 +- ModelNotFound         404  the model asked for is not the one that is served
 +- RouteNotFound         404  no such path
 +- MethodNotAllowed      405  the path is there, the method is not
 +- IdempotencyKeyInUse   409  the request of this Idempotency-Key is still running
 +- PayloadTooLarge       413
 +- UnsupportedMediaType  415
 +- InvalidImage          422  the upload is not a readable picture
 +- IdempotencyKeyReused  422  another request came with this Idempotency-Key before
 +- RateLimitExceeded     429  `retry_after_seconds` until there is room for this request
 +- QueueFull             429  `retry_after_seconds` is the work already accepted
 +- ClientDisconnected    499  never read by a client; for the log and the metrics
 +- NotReady              503  warming up or draining
 +- StoreUnavailable      503  Redis cannot be reached, or the disk refuses an upload
 +- DeadlineExceeded      504
 +- StyleDamaged          500  what the store keeps of a style cannot be read
 +- GenerationFailed      500  the model failed; the log has the trace
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """An error with a stable `code` and a sentence that says what was wrong and what would be right."""

    code = "internal_error"
    status = 500
    type = "server_error"
    more_codes: ClassVar[tuple[str, ...]] = ()  # of the same status, for clients that tell causes apart

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        assert self.code in (type(self).code, *type(self).more_codes), (
            f"{self.code} is not a code of {type(self).__name__}"
        )
        self.retry_after_seconds = retry_after_seconds


class InvalidRequest(ServiceError):
    code, status, type = "invalid_value", 400, "invalid_request_error"
    more_codes = (
        "conflicting_parameters",
        "foreign_style_code",
        "invalid_body",
        "invalid_json",
        "invalid_style_code",
        "missing_required_parameter",
        "unknown_parameter",
        "unsupported_size",
        "unsupported_value",
    )


class InvalidApiKey(ServiceError):
    code, status, type = "invalid_api_key", 401, "invalid_request_error"


class StyleNotFound(ServiceError):
    code, status, type = "style_not_found", 404, "invalid_request_error"
    more_codes = ("style_image_not_found",)


class ModelNotFound(ServiceError):
    code, status, type = "model_not_found", 404, "invalid_request_error"


class RouteNotFound(ServiceError):
    code, status, type = "not_found", 404, "invalid_request_error"


class MethodNotAllowed(ServiceError):
    code, status, type = "method_not_allowed", 405, "invalid_request_error"


class IdempotencyKeyInUse(ServiceError):
    code, status, type = "idempotency_key_in_use", 409, "invalid_request_error"


class PayloadTooLarge(ServiceError):
    code, status, type = "payload_too_large", 413, "invalid_request_error"


class UnsupportedMediaType(ServiceError):
    code, status, type = "unsupported_media_type", 415, "invalid_request_error"


class InvalidImage(ServiceError):
    code, status, type = "invalid_image", 422, "invalid_request_error"


class IdempotencyKeyReused(ServiceError):
    code, status, type = "idempotency_key_reused", 422, "invalid_request_error"


class RateLimitExceeded(ServiceError):
    code, status, type = "rate_limit_exceeded", 429, "rate_limit_error"


class ClientDisconnected(ServiceError):
    code, status, type = "client_closed_request", 499, "invalid_request_error"


class QueueFull(ServiceError):
    code, status, type = "queue_full", 429, "rate_limit_error"


class NotReady(ServiceError):
    code, status, type = "not_ready", 503, "server_error"


class StoreUnavailable(ServiceError):
    code, status, type = "store_unavailable", 503, "server_error"


class DeadlineExceeded(ServiceError):
    code, status, type = "deadline_exceeded", 504, "server_error"


class GenerationFailed(ServiceError):
    code, status, type = "generation_failed", 500, "server_error"


class StyleDamaged(ServiceError):
    code, status, type = "style_damaged", 500, "server_error"


def kinds_of_codes() -> dict[str, type[ServiceError]]:
    """Every code that a client can see, with its class of error."""
    kinds: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
    return {code: kind for kind in kinds for code in (kind.code, *kind.more_codes)}
