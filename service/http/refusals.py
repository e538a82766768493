"""Validation errors as sentences: what was wrong with which field, and what would be right."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError

from service.errors import InvalidRequest


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
