"""The OpenAPI document: what FastAPI reads from the routes, completed by what it cannot know."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service.http.content_negotiation import JSON
from service.http.middleware.auth import is_guarded
from service.http.openapi.errors import described, table_of_codes
from service.http.schemas.base import ProblemResponse
from service.http.schemas.edits import EditBody
from service.http.schemas.image_responses import (
    CompletedEvent,
    EditCompletedEvent,
    EditPartialImageEvent,
    PartialImageEvent,
)
from service.http.schemas.jobs import JobEvent
from service.jobs.record import JobStatus

GENERATION_EVENTS: dict[str, type[BaseModel]] = {
    "image_generation.partial_image": PartialImageEvent,
    "image_generation.completed": CompletedEvent,
    "error": ProblemResponse,
}
EDIT_EVENTS: dict[str, type[BaseModel]] = {
    "image_edit.partial_image": EditPartialImageEvent,
    "image_edit.completed": EditCompletedEvent,
    "error": ProblemResponse,
}
JOB_EVENTS: dict[str, type[BaseModel]] = {
    **{f"job.{status.value}": JobEvent for status in JobStatus},
    "error": ProblemResponse,
}
DESCRIPTION = f"""\
Upload a picture once and get a style ID. From then on, ask for any prompt in that style. Requests for images
have the shape of OpenAI's API, and its clients work unchanged.

Unknown fields are refused by name. Every failure has one form,
`{{"error": {{"message", "type", "param", "code"}}}}`: the message says what would be right; codes are stable.

JSON may take 1 MiB, and more where it holds pictures to edit. Where the service has API keys, all under
`/v1` needs one; rate limits are per key.

{table_of_codes()}
"""
REFERENCE = "#/components/{kind}/{name}"
_HEADERS = {
    "X-Request-ID": "The request's own where that is valid, else a new one. It is in the log.",
    "Server-Timing": "Milliseconds of each stage, and of all of it as `total`. Stages of images: `queue`, "
    "`text`, `style`, `transformer` (with its steps), `decode`, `encode`; of edits `upload`, `picture` and "
    "`tokenize`, too; of making a style: `upload`, `picture`, `store`, `queue`, `extract`, `decompose`; of "
    "every request, what is left before, between and after these: `receive`, `handle`, `respond`.",
}
_LIMITED = {
    f"x-ratelimit-{name}-{kind}": f"{what} {kind}, where the API key has a bound of them."
    for kind in ("requests", "images")
    for name, what in {
        "limit": "The bound a minute of",
        "remaining": "What is left of it, in",
        "reset": "When all of it is there again, such as `12.000s`, in",
    }.items()
}


def complete(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The app's document with what FastAPI leaves out; built once."""
    of_framework = app.openapi

    @cache
    def document() -> dict[str, Any]:
        found = of_framework()
        _restore_examples(app, found)
        _add_schemas(found)
        _add_headers(found)
        return found

    return document


def event_stream(example: str, events: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """The content of a response of server-sent events."""
    schema = {
        "type": "string",
        "description": "Server-sent events. The `data` of each is JSON, of the schema that `x-events` names.",
        "x-events": {
            name: {"$ref": REFERENCE.format(kind="schemas", name=event.__name__)}
            for name, event in events.items()
        },
    }
    return {"text/event-stream": {"schema": schema, "examples": {"stream": {"value": example}}}}


def _add_schemas(document: dict[str, Any]) -> None:
    """The schemas of events, with which no route answers alone, and of the body that is read by hand."""
    events = {**GENERATION_EVENTS, **EDIT_EVENTS, **JOB_EVENTS}
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (EditBody, "validation"),
        *((event, "serialization") for event in events.values()),
    ]
    template = REFERENCE.format(kind="schemas", name="{model}")
    _, definitions = models_json_schema(models, ref_template=template)
    document["components"]["schemas"] = definitions["$defs"] | document["components"]["schemas"]


def _add_headers(document: dict[str, Any]) -> None:
    """The headers that middleware adds to every response."""
    document["components"]["headers"] = described(_HEADERS | _LIMITED)
    for path, operations in document["paths"].items():
        names = [*_HEADERS, *(_LIMITED if is_guarded(path) else ())]
        references = {name: {"$ref": REFERENCE.format(kind="headers", name=name)} for name in names}
        for operation in operations.values():
            for response in operation["responses"].values():
                response["headers"] = response.get("headers", {}) | references


def _restore_examples(app: FastAPI, document: dict[str, Any]) -> None:
    """FastAPI drops every null, in examples too: put them back as they were given."""
    for route in iter_route_contexts(app.routes):
        for method in map(str.lower, route.methods or ()):
            operation = document["paths"].get(route.path, {}).get(method)
            if operation is None:  # a page, which is not in the document
                continue
            for status, response in route.responses.items():
                for media_type, given in response.get("content", {}).items():
                    if "examples" in given:
                        found = operation["responses"][str(status)]["content"][media_type]
                        found["examples"] = given["examples"]
            if route.body_field is not None:
                examples = getattr(route.body_field.field_info, "openapi_examples", None)
                operation["requestBody"]["content"][JSON]["examples"] = examples
