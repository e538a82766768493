"""The errors that a client can see, with their HTTP statuses and codes.

The docstring of a class says when its `code` occurs, and `more_codes` the same of the others: the OpenAPI
document shows both.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """An unexpected failure."""

    code = "internal_error"
    status = 500
    type = "server_error"
    more_codes: ClassVar[dict[str, str]] = {}  # of the same status, for clients that distinguish causes

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message  # says what was wrong and what would be right
        self.param = param
        self.code = code or type(self).code
        self.retry_after_seconds = retry_after_seconds
        assert self.code in type(self).codes(), f"{self.code} is not a code of {type(self).__name__}"

    @classmethod
    def codes(cls) -> dict[str, str]:
        """Its codes, each with when it occurs."""
        return {cls.code: cls.__doc__ or "", **cls.more_codes}


class InvalidRequest(ServiceError):
    """A field, query parameter or header is out of range or of the wrong type."""

    code, status, type = "invalid_value", 400, "invalid_request_error"
    more_codes: ClassVar[dict[str, str]] = {
        "conflicting_parameters": "Fields exclude each other.",
        "foreign_style_code": "A style code of another model than the one served.",
        "invalid_body": "The body is not a JSON object, or not a form that can be read.",
        "invalid_json": "The body is not JSON.",
        "invalid_style_code": "A damaged style code.",
        "malformed_request": "Bytes that are not HTTP/1.1.",
        "missing_required_parameter": "A field is missing.",
        "unknown_parameter": "A field that does not exist.",
        "unsupported_size": "The model has no such size; the message lists those it has.",
        "unsupported_value": "A value that OpenAI accepts and this service does not.",
    }


class InvalidApiKey(ServiceError):
    """No API key, or an unknown one."""

    code, status, type = "invalid_api_key", 401, "invalid_request_error"


class HostNotAllowed(ServiceError):
    """Without API keys: the `Host` is neither a loopback name nor an allowed one."""

    code, status, type = "host_not_allowed", 403, "invalid_request_error"
    more_codes: ClassVar[dict[str, str]] = {"cross_site_request": "Without API keys: a page of another site."}


class StyleQuotaExceeded(ServiceError):
    """The tenant has as many styles, or bytes of them, as the API key may keep."""

    code, status, type = "style_quota_exceeded", 403, "invalid_request_error"


class StyleNotFound(ServiceError):
    """No such style, or one of another tenant."""

    code, status, type = "style_not_found", 404, "invalid_request_error"
    more_codes: ClassVar[dict[str, str]] = {"style_image_not_found": "The style has no such picture."}


class JobNotFound(ServiceError):
    """No such job, or one of another tenant, or one that ended long ago."""

    code, status, type = "job_not_found", 404, "invalid_request_error"
    more_codes: ClassVar[dict[str, str]] = {"job_preview_not_found": "The job has no preview now."}


class ModelNotFound(ServiceError):
    """Another model than the one served."""

    code, status, type = "model_not_found", 404, "invalid_request_error"


class RouteNotFound(ServiceError):
    """No such path."""

    code, status, type = "not_found", 404, "invalid_request_error"


class MethodNotAllowed(ServiceError):
    """The path has no such method; `Allow` lists those it has."""

    code, status, type = "method_not_allowed", 405, "invalid_request_error"


class NotAcceptable(ServiceError):
    """`Accept` allows none of the forms that there are."""

    code, status, type = "not_acceptable", 406, "invalid_request_error"


class RequestTimedOut(ServiceError):
    """The rest of the request did not arrive in time."""

    code, status, type = "request_timeout", 408, "invalid_request_error"


class IdempotencyKeyInUse(ServiceError):
    """The first request with this Idempotency-Key is still running."""

    code, status, type = "idempotency_key_in_use", 409, "invalid_request_error"


class PayloadTooLarge(ServiceError):
    """The body has too many bytes, or a picture too many bytes or pixels."""

    code, status, type = "payload_too_large", 413, "invalid_request_error"
    more_codes: ClassVar[dict[str, str]] = {
        "result_too_large": "The images of a job take more bytes than are kept.",
    }


class UnsupportedMediaType(ServiceError):
    """Another Content-Type than the path takes, or an upload that is no picture of a known format."""

    code, status, type = "unsupported_media_type", 415, "invalid_request_error"


class InvalidImage(ServiceError):
    """A picture that is cut off, damaged, animated, too small or too elongated."""

    code, status, type = "invalid_image", 422, "invalid_request_error"


class IdempotencyKeyReused(ServiceError):
    """Another request was sent with this Idempotency-Key before."""

    code, status, type = "idempotency_key_reused", 422, "invalid_request_error"


class RateLimitExceeded(ServiceError):
    """The API key has used up its limit for this minute."""

    code, status, type = "rate_limit_exceeded", 429, "rate_limit_error"


class HeaderTooLarge(ServiceError):
    """The request's line and headers are too long."""

    code, status, type = "header_too_large", 431, "invalid_request_error"


class ClientDisconnected(ServiceError):
    """The client closed the connection: for the log and the metrics."""

    code, status, type = "client_closed_request", 499, "invalid_request_error"


class QueueFull(ServiceError):
    """Too much work is waiting; `Retry-After` estimates when it will be done."""

    code, status, type = "queue_full", 429, "rate_limit_error"


class NotReady(ServiceError):
    """The service is starting or shutting down."""

    code, status, type = "not_ready", 503, "server_error"


class TooManyConnections(ServiceError):
    """Too many connections are open."""

    code, status, type = "too_many_connections", 503, "server_error"


class StoreUnavailable(ServiceError):
    """The style store is unreachable or full, or the disk is full."""

    code, status, type = "store_unavailable", 503, "server_error"


class DeadlineExceeded(ServiceError):
    """The time of X-Request-Timeout, or the service's own bound, has passed."""

    code, status, type = "deadline_exceeded", 504, "server_error"


class GenerationFailed(ServiceError):
    """The model failed on this job."""

    code, status, type = "generation_failed", 500, "server_error"
    more_codes: ClassVar[dict[str, str]] = {
        "attempts_exhausted": "A job was tried several times, and its worker failed or died each time.",
    }


class StyleDamaged(ServiceError):
    """The stored style cannot be read."""

    code, status, type = "style_damaged", 500, "server_error"


def kinds_of_codes() -> dict[str, type[ServiceError]]:
    """Every code that a client can see, with its class of error."""
    kinds: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
    return {code: kind for kind in kinds for code in kind.codes()}
