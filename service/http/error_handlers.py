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

from service.errors import ClientDisconnected, InvalidRequest, MethodNotAllowed, RouteNotFound, ServiceError


def error_response(error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    """The body {"error": {message, type, param, code}} with its status, and `Retry-After` where known."""
    headers = dict(headers or {})
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return Response(body_of(error), status_code=error.status, headers=headers, media_type="application/json")


def body_of(error: ServiceError) -> str:
    """The JSON of an error, of a response or of an event."""
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    # Escaped to ASCII: a field's name may hold half a surrogate pair, which UTF-8 cannot carry.
    return json.dumps({"error": body}, ensure_ascii=True)


def unexpected_error() -> ServiceError:
    """What a client sees of a failure that we did not foresee: the log has the trace, the answer has none."""
    return ServiceError("Something failed on our side. The log has the details under this X-Request-ID.")


def install_problems(app: FastAPI) -> None:
    """Give every failure of the app the one error body; unforeseen ones are answered in observation.py."""
    app.add_exception_handler(ServiceError, _of_service_error)
    app.add_exception_handler(RequestValidationError, _of_validation_error)
    app.add_exception_handler(HTTPException, _of_http_exception)
    app.add_exception_handler(ClientDisconnect, _of_client_disconnect)


async def _of_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(error)


async def _of_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(refusal(error))


async def _of_client_disconnect(request: Request, error: Exception) -> Response:
    return error_response(ClientDisconnected("The client closed the connection."))


async def _of_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own refusals: no route, wrong method, a body it could not read."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ServiceError):  # ours, raised while the framework was reading the body
        return error_response(error.__cause__)
    if isinstance(error.__cause__, ClientDisconnect):
        return await _of_client_disconnect(request, error.__cause__)
    path = request.url.path
    if error.status_code == 404:
        return error_response(RouteNotFound(f"There is no {path}; /docs lists what there is."))
    if error.status_code == 405:
        allowed = ", ".join(methods_of(request.app, path))
        message = f"{request.method} is not a method of {path}; it has {allowed}."
        return error_response(MethodNotAllowed(message), {"Allow": allowed})
    message = f"The body cannot be read. {error.detail.removesuffix('.')}."
    return error_response(InvalidRequest(message, code="invalid_body"))


def refusal(error: RequestValidationError) -> InvalidRequest:
    """The first problem, as an error with `param` (a dot between levels) and a code."""
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
    if kind == "missing":
        return InvalidRequest(f"{param} is missing.", param=param, code="missing_required_parameter")
    if kind == "unsupported_value":
        return InvalidRequest(message, param=param, code=kind)
    return InvalidRequest(f"{param} {_must(message)}.", param=param)


def _must(message: str) -> str:
    """Pydantic's "Input should be ..." and "String should have ..." in our words."""
    for theirs in ("Input should ", "String should ", "Value should "):
        if message.startswith(theirs):
            return "must " + message.removeprefix(theirs)
    return f"is not acceptable: {message}"


def methods_of(app: FastAPI, path: str) -> list[str]:
    """The methods that the path has, sorted; none when there is no such path."""
    return sorted({method for _, methods in _matching(app, path) for method in methods})


def _matching(app: FastAPI, path: str) -> list[tuple[str, set[str]]]:
    """Template and methods of each route whose path this is, in the order in which they are tried."""
    return [
        (str(route.path), set(route.methods or ()))
        for route in iter_route_contexts(app.routes)
        if route.path_regex.match(path)
    ]
