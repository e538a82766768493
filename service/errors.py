"""The errors that a client can see, with their HTTP statuses and codes."""

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


class InvalidRequest(ServiceError):  # `param` names the field
    code, status, type = "invalid_value", 400, "invalid_request_error"
    more_codes = (
        "conflicting_parameters",
        "foreign_style_code",
        "invalid_body",
        "invalid_json",
        "invalid_style_code",
        "malformed_request",
        "missing_required_parameter",
        "unknown_parameter",
        "unsupported_size",
        "unsupported_value",
    )


class InvalidApiKey(ServiceError):
    code, status, type = "invalid_api_key", 401, "invalid_request_error"


class HostNotAllowed(ServiceError):  # without API keys: DNS rebinding, or a page of another site
    code, status, type = "host_not_allowed", 403, "invalid_request_error"
    more_codes = ("cross_site_request",)


class StyleNotFound(ServiceError):
    code, status, type = "style_not_found", 404, "invalid_request_error"
    more_codes = ("style_image_not_found",)


class ModelNotFound(ServiceError):  # the model asked for is not the one that is served
    code, status, type = "model_not_found", 404, "invalid_request_error"


class RouteNotFound(ServiceError):
    code, status, type = "not_found", 404, "invalid_request_error"


class MethodNotAllowed(ServiceError):  # the path exists, the method does not
    code, status, type = "method_not_allowed", 405, "invalid_request_error"


class RequestTimedOut(ServiceError):  # the client did not send the rest of its request
    code, status, type = "request_timeout", 408, "invalid_request_error"


class IdempotencyKeyInUse(ServiceError):  # the first request with this key is still running
    code, status, type = "idempotency_key_in_use", 409, "invalid_request_error"


class PayloadTooLarge(ServiceError):
    code, status, type = "payload_too_large", 413, "invalid_request_error"


class UnsupportedMediaType(ServiceError):
    code, status, type = "unsupported_media_type", 415, "invalid_request_error"


class InvalidImage(ServiceError):  # the upload is not a readable picture
    code, status, type = "invalid_image", 422, "invalid_request_error"


class IdempotencyKeyReused(ServiceError):  # another request came with this key before
    code, status, type = "idempotency_key_reused", 422, "invalid_request_error"


class RateLimitExceeded(ServiceError):  # `retry_after_seconds` until there is room for this request
    code, status, type = "rate_limit_exceeded", 429, "rate_limit_error"


class HeaderTooLarge(ServiceError):
    code, status, type = "header_too_large", 431, "invalid_request_error"


class ClientDisconnected(ServiceError):  # never read by a client; for the log and the metrics
    code, status, type = "client_closed_request", 499, "invalid_request_error"


class QueueFull(ServiceError):  # `retry_after_seconds` until the work already accepted is done
    code, status, type = "queue_full", 429, "rate_limit_error"


class NotReady(ServiceError):  # warming up or draining
    code, status, type = "not_ready", 503, "server_error"


class TooManyConnections(ServiceError):
    code, status, type = "too_many_connections", 503, "server_error"


class StoreUnavailable(ServiceError):  # Redis cannot be reached, or the disk refuses an upload
    code, status, type = "store_unavailable", 503, "server_error"


class DeadlineExceeded(ServiceError):
    code, status, type = "deadline_exceeded", 504, "server_error"


class GenerationFailed(ServiceError):  # the model failed; the log has the trace
    code, status, type = "generation_failed", 500, "server_error"


class StyleDamaged(ServiceError):  # the stored style cannot be read
    code, status, type = "style_damaged", 500, "server_error"


def kinds_of_codes() -> dict[str, type[ServiceError]]:
    """Every code that a client can see, with its class of error."""
    kinds: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
    return {code: kind for kind in kinds for code in (kind.code, *kind.more_codes)}
