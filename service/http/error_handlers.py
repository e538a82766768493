"""The one error body, and how every failure becomes it."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.errors import (
    ClientDisconnected,
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    RouteNotFound,
    ServiceError,
)


def install_error_handlers(app: FastAPI) -> None:
    """Answer the framework's own failures with the error body; Telemetry answers all others."""
    for kind in (RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, _on_framework_error)


def error_response(error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    """The error body with its status, and the headers that belong to it."""
    headers = dict(headers or {})
    if isinstance(error, InvalidApiKey):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return Response(
        error_json(error), status_code=error.status, headers=headers, media_type="application/json"
    )


def error_json(error: ServiceError) -> str:
    """{"error": {message, type, param, code}}, for a response or an event."""
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    # Escaped to ASCII: a field's name may hold half a surrogate pair, which UTF-8 cannot carry.
    return json.dumps({"error": body}, ensure_ascii=True)


def unexpected_error() -> ServiceError:
    """What a client sees of an unexpected failure: the log has the trace, the response has none of it."""
    return ServiceError("Something failed on our side. The log has the details under this X-Request-ID.")


def validation_error(error: RequestValidationError) -> InvalidRequest:
    """The first mistake, as an error with a code and a `param` with dots between its levels."""
    first: dict[str, Any] = dict(error.errors()[0])
    kind, message, context = first["type"], str(first["msg"]), first.get("ctx", {})
    path = [str(part) for part in first["loc"][1:]]
    param = ".".join(path)
    if kind == "json_invalid":
        message = f"The body is not valid JSON: {context['error']} at character {param}."
        return InvalidRequest(message, code="invalid_json")
    if kind == "unknown_parameter":
        return InvalidRequest(message, param=".".join([*path, context["name"]]), code=kind)
    if not path:
        return InvalidRequest("The body must be a JSON object.", code="invalid_body")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return InvalidRequest(f"{param} must be a JSON object.", param=param)
    if kind == "string_pattern_mismatch":  # the only pattern is that of texts that are not blank
        return InvalidRequest(f"{param} must not be blank.", param=param)
    if kind == "missing":
        return InvalidRequest(f"{param} is missing.", param=param, code="missing_required_parameter")
    if kind in ("unsupported_value", "invalid_value"):  # a sentence of ours
        return InvalidRequest(message, param=param, code=kind)
    for start in ("Input should ", "String should ", "Value should "):  # pydantic's words
        if message.startswith(start):
            return InvalidRequest(f"{param} must {message.removeprefix(start)}.", param=param)
    return InvalidRequest(f"{param} is not acceptable: {message}.", param=param)


def nested_too_deeply() -> InvalidRequest:
    """Of JSON that Python's parser gives up on: no body of ours has more than four levels."""
    return InvalidRequest(
        "The body's JSON has too many levels of brackets within brackets; leave the nesting out.",
        code="invalid_json",
    )


def matching_routes(app: FastAPI, path: str) -> list[tuple[str, set[str]]]:
    """Template and methods of each route that matches the path, in the order in which they are tried."""
    return [
        (str(route.path), set(route.methods or ()))
        for route in iter_route_contexts(app.routes)
        if route.path_regex.match(path)
    ]


async def _on_framework_error(request: Request, error: Exception) -> Response:
    """No such route, wrong method, or a body that the framework could not read."""
    cause = error.__cause__ or error
    if isinstance(cause, ServiceError):  # ours, raised while the framework was reading the body
        return error_response(cause)
    if isinstance(cause, ClientDisconnect):
        return error_response(ClientDisconnected("The client closed the connection."))
    if isinstance(error, RequestValidationError):
        return error_response(validation_error(error))
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return error_response(RouteNotFound(f"There is no {path}; /docs lists what there is."))
    if error.status_code == 405:
        routes = matching_routes(request.app, path)
        methods = {method for _, methods in routes for method in methods}
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        message = f"{request.method} is not a method of {path}; it has {allowed}."
        return error_response(MethodNotAllowed(message), {"Allow": allowed})
    if isinstance(cause, RecursionError):
        return error_response(nested_too_deeply())
    if isinstance(cause, UnicodeDecodeError):
        return error_response(InvalidRequest("The body is not text in UTF-8.", code="invalid_json"))
    message = f"The body cannot be read. {error.detail.removesuffix('.')}."
    return error_response(InvalidRequest(message, code="invalid_body"))
