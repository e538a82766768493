"""OpenAI's published specification as the measure: what its CreateImageRequest allows is answered, and every
answer and event has its schema. tests/golden/openai/images.json says where the schemas are from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from service.settings import Settings
from tests.support.generations import GENERATIONS, error_of, events_of
from tests.support.server import serving
from tests.support.tiny import tiny_generator

pytestmark = pytest.mark.slow

SPECIFICATION: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden/openai/images.json").read_text()
)
SCHEMAS: dict[str, dict[str, Any]] = SPECIFICATION["components"]["schemas"]
FIELDS: dict[str, dict[str, Any]] = SCHEMAS["CreateImageRequest"]["properties"]
BODY = {"model": "gpt-image-2", "prompt": "a star"}
# Of fields whose schema has no values to list: all that may make a difference here.
EXAMPLES: dict[str, list[Any]] = {
    "prompt": ["a", ("a star " * 4572)[:32_000]],
    "model": ["tiny", "another/model:1.0"],
    "n": list(range(1, 11)),
    "output_compression": [100],
    "stream": [False, True],
    "partial_images": [0, 1, 2, 3],
    "size": ["1536x864", "96x64"],
    "user": ["user-1234"],
}


def check(value: Any, schema: str) -> None:
    """AssertionError with the first reason why the value does not have the schema."""
    validator = Draft202012Validator(SCHEMAS[schema] | {"components": SPECIFICATION["components"]})
    errors = list(validator.iter_errors(value))
    assert not errors, errors[0]


def allowed(field: str) -> list[Any]:
    """The values that the schema lists, null where it may be, and the examples."""
    schema = FIELDS[field]
    kinds = SCHEMAS["PartialImages"]["anyOf"] if "$ref" in schema else schema.get("anyOf", [schema])
    listed = [value for kind in kinds for value in kind.get("enum", ())]
    is_nullable = any("null" in kind.get("type", ()) for kind in kinds)
    values = [*listed, *EXAMPLES.get(field, ()), *([None] if is_nullable else ())]
    return [value for value in dict.fromkeys(values) if (field, value) != ("background", "transparent")]


SINGLE_VALUES = [(field, value) for field in FIELDS for value in allowed(field)]
combinations = st.fixed_dictionaries(
    {"model": st.sampled_from(allowed("model")), "prompt": st.sampled_from(["a star", "x" * 5000])},
    optional={
        field: st.sampled_from([1, 2] if field == "n" else allowed(field))
        for field in FIELDS
        if field not in BODY
    },
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("server"), model_aliases="*=tiny")
    with serving(settings, tiny_generator()) as running, running.client() as client:
        running.wait_until_settled()
        yield client


def require_answer(client: httpx.Client, body: dict[str, Any]) -> None:
    check(body, "CreateImageRequest")
    num_images = body.get("n") or 1
    if body.get("stream"):
        events = events_of(client, **body)
        for event in events:
            kind = "Partial" if event["type"].endswith("partial_image") else "Completed"
            check(event, f"ImageGen{kind}{'Image' * (kind == 'Partial')}Event")
        completed = [event for event in events if event["type"].endswith("completed")]
        assert len(completed) == num_images
        assert len(events) == num_images * (1 + (body.get("partial_images") or 0))
        return
    response = client.post(GENERATIONS, json=body)
    assert response.status_code == 200, response.text[:1000]
    answer = response.json()
    check(answer, "ImagesResponse")
    field = "url" if body.get("response_format") == "url" else "b64_json"
    assert [next(iter(image)) for image in answer["data"]] == [field] * num_images
    asked = body.get("size") or "auto"
    assert answer["size"] == ("64x64" if asked == "auto" else asked)


def test_the_schemas_refuse_what_they_should() -> None:
    with pytest.raises(AssertionError):
        check({"created": "now"}, "ImagesResponse")
    with pytest.raises(AssertionError):
        check(BODY | {"quality": "best"}, "CreateImageRequest")


@pytest.mark.parametrize(
    ("field", "value"), SINGLE_VALUES, ids=[f"{field}-{str(value)[:24]}" for field, value in SINGLE_VALUES]
)
def test_each_value_of_each_field_is_answered(client: httpx.Client, field: str, value: Any) -> None:
    require_answer(client, BODY | {field: value})


@given(body=combinations)
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_each_combination_is_answered(client: httpx.Client, body: dict[str, Any]) -> None:
    require_answer(client, body)


@pytest.mark.parametrize("compression", [0, 37, 100])
@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_a_compression_goes_with_a_jpeg_or_a_webp(
    client: httpx.Client, compression: int, output_format: str
) -> None:
    require_answer(client, BODY | {"output_compression": compression, "output_format": output_format})


@pytest.mark.parametrize(
    ("fields", "param", "part_of_message"),
    [
        ({"background": "transparent"}, "background", "images are opaque"),
        ({"output_compression": 50}, "output_compression", "a png is lossless"),
        ({"output_compression": 50, "output_format": "png"}, "output_compression", "a png is lossless"),
        ({"prompt": "x" * 32_001}, "prompt", "32001 characters"),
    ],
)
def test_what_cannot_be_done_is_refused_and_not_pretended(
    client: httpx.Client, fields: dict[str, Any], param: str, part_of_message: str
) -> None:
    error = error_of(client.post(GENERATIONS, json=BODY | fields), 400)
    assert error["param"] == param
    assert part_of_message in error["message"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"quality": "hd"}, "quality hd"),
        ({"quality": "standard"}, "quality standard"),
        ({"quality": "xhigh"}, "quality xhigh"),
        ({"quality": "max"}, "quality max"),
        ({"style": "vivid"}, "style vivid"),
        ({"style": "natural"}, "style natural"),
        ({"moderation": "low"}, "moderation"),
        ({"user": "user-1234"}, "user"),
        ({"safety_identifier": "user-1234"}, "safety_identifier"),
        ({"complexity": "high"}, "complexity"),
        ({"frame_count": 9}, "frame_count"),
        ({"frame_duration_ms": 200}, "frame_duration_ms"),
        ({"svg": {"model": "gpt-6"}}, "svg"),
        ({"partial_images": 2}, "partial_images"),
        ({"size": "512x512"}, "size 512x512"),
        ({"prompt": "a star " * 100}, "the prompt was cut"),
    ],
)
def test_what_is_accepted_without_effect_is_named_in_a_warning(
    client: httpx.Client, fields: dict[str, Any], named: str
) -> None:
    body = BODY | {"prompt": "a star"}
    without = client.post(GENERATIONS, json=body).json().get("warnings", [])
    response = client.post(GENERATIONS, json=body | fields)
    (warning,) = [text for text in response.json()["warnings"] if text not in without]
    assert warning.startswith(named)
    raw = client.post(GENERATIONS, json=body | fields, headers={"Accept": "image/png"})
    assert named in raw.headers["X-Warnings"]
    *_, completed = events_of(client, **(body | fields))
    assert (warning in completed.get("warnings", ())) == (named != "partial_images")


def test_a_stream_for_which_a_url_was_asked_says_that_it_has_none(client: httpx.Client) -> None:
    *_, completed = events_of(client, **BODY, response_format="url")
    assert "response_format url is ignored: events carry b64_json" in completed["warnings"]


def test_the_models_of_the_package_are_answered_too(client: httpx.Client) -> None:
    from typing import get_args

    from openai.types import ImageModel

    for model in get_args(ImageModel):
        require_answer(client, BODY | {"model": model})


def test_the_alias_of_any_name_is_listed_with_the_model(client: httpx.Client) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["aliases"], model["alias_of"]) == ("tiny", ["*"], None)
    alias = client.get("/v1/models/gpt-image-1").json()
    assert (alias["id"], alias["alias_of"]) == ("gpt-image-1", "tiny")
