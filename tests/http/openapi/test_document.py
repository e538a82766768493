"""The OpenAPI document has every operation, field and error, and its examples match their schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from service.app import create_app
from service.errors import ClientDisconnected, kinds_of_codes
from service.http.openapi.examples import STREAM
from service.settings import Settings

DOCUMENT: dict[str, Any] = create_app(Settings()).openapi()
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
for_all_operations = pytest.mark.parametrize("name", OPERATIONS)


def check(example: Any, schema: dict[str, Any]) -> None:
    """AssertionError with the first reason why the example does not have the schema."""
    errors = list(Draft202012Validator(schema | {"components": DOCUMENT["components"]}).iter_errors(example))
    assert not errors, errors[0]


def examples_in(content: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The name, the value and the schema of each example, whatever the media type."""
    for part in content.values():
        for name, example in part.get("examples", {}).items():
            yield name, example["value"], part.get("schema", {})


def test_the_document_is_one_of_its_version() -> None:
    validate(DOCUMENT)


@for_all_operations
def test_an_operation_says_what_it_does_and_what_each_parameter_is(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    for parameter in operation.get("parameters", ()):
        assert parameter.get("description"), parameter["name"]


@for_all_operations
def test_every_kind_of_body_has_examples_of_its_schema(name: str) -> None:
    content = OPERATIONS[name].get("requestBody", {}).get("content", {})
    assert bool(content) == name.startswith(("POST", "PATCH"))
    for media_type, part in content.items():
        assert part["examples"], media_type
    for _, example, schema in examples_in(content):
        check(example, schema)


@for_all_operations
def test_every_success_has_an_example_of_its_schema(name: str) -> None:
    successes = {code: response for code, response in OPERATIONS[name]["responses"].items() if code < "300"}
    assert successes
    for response in successes.values():
        found = list(examples_in(response["content"]))
        assert found
        for _, example, schema in found:
            check(example, schema)


@for_all_operations
def test_every_failure_has_an_example_with_a_code_of_its_status(name: str) -> None:
    failures = {
        status: response
        for status, response in OPERATIONS[name]["responses"].items()
        if "400" <= status < "600"
    }
    assert {"400", "413", "500", "504"} <= failures.keys()
    kinds = kinds_of_codes()
    for status, response in failures.items():
        found = list(examples_in(response["content"]))
        assert found
        for code, example, schema in found:
            check(example, schema)
            assert example["error"]["code"] == code
            assert (str(kinds[code].status), kinds[code].type) == (status, example["error"]["type"])
            assert example["error"]["message"].endswith(".") or example["error"]["message"].endswith("?")
        assert ("Retry-After" in response["headers"]) == (status in ("409", "429", "503"))


def test_every_code_is_in_the_description_and_in_the_operations_that_can_return_it() -> None:
    seen = set(kinds_of_codes()) - {ClientDisconnected.code}  # nobody is left to see that one
    assert set(re.findall(r"^\| `(\w+)` \|", DOCUMENT["info"]["description"], re.MULTILINE)) == seen
    given = {
        code
        for operation in OPERATIONS.values()
        for status, response in operation["responses"].items()
        if status >= "400"
        for code, _, _ in examples_in(response.get("content", {}))
    }
    assert given == seen - {"not_found", "method_not_allowed"}  # of paths and methods that are none of these


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from DOCUMENT["components"]["schemas"].items()
    content = OPERATIONS["POST /v1/styles"]["requestBody"]["content"]
    yield "form", content["multipart/form-data"]["schema"]
    for schema in content["application/json"]["schema"]["oneOf"]:
        yield schema["title"], schema


@pytest.mark.parametrize(("name", "schema"), list(schemas()))
def test_every_field_says_what_it_is(name: str, schema: dict[str, Any]) -> None:
    undescribed = [field for field, kind in schema["properties"].items() if not kind.get("description")]
    assert undescribed == []


def test_every_response_lists_its_headers() -> None:
    for name, operation in OPERATIONS.items():
        for response in operation["responses"].values():
            assert {"X-Request-ID", "Server-Timing"} <= response["headers"].keys()
            assert ("x-ratelimit-remaining-images" in response["headers"]) == ("/v1/" in name)


def test_the_events_of_the_example_stream_have_their_schemas() -> None:
    content = OPERATIONS["POST /v1/images/generations"]["responses"]["200"]["content"]
    schema = content["text/event-stream"]["schema"]
    assert STREAM in [example for _, example, _ in examples_in(content)]
    names = []
    for event in STREAM.strip().split("\n\n"):
        name, content = (line.partition(": ")[2] for line in event.splitlines())
        check(json.loads(content), schema["x-events"][name])
        names.append(name)
    assert [*names, "error"] == list(schema["x-events"])


def test_the_page_of_the_documentation_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    addresses = re.findall(r"""(?:src|href|url)(?:=|: )["']([^"']+)["']""", page.text)
    assert set(addresses) == {"docs/swagger-ui-bundle.js", "docs/swagger-ui.css", "data:,", "openapi.json"}
    for address, kind in (("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css")):
        asset = client.get(f"/docs/{address}")
        assert asset.headers["Content-Type"].startswith(kind)
        assert len(asset.content) > 50_000
    assert client.get("/docs/../service.py").status_code == 404
    assert client.get("/docs/redoc.standalone.js").json()["error"]["code"] == "not_found"
