"""OpenAI's published specification of edits: what its CreateImageEditRequest allows is answered, and every
answer and event has its schema. test_openai_specification.py is the same of generations.
"""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.test_openai_specification import EXAMPLES, SCHEMAS, check, client
from tests.support.generations import error_of
from tests.support.uploads import picture

pytestmark = pytest.mark.slow
__all__ = ["client"]  # a fixture

EDITS = "/v1/images/edits"
FIELDS: dict[str, dict[str, Any]] = SCHEMAS["CreateImageEditRequest"]["properties"]
FILES = ("image", "mask")
BODY = {"model": "gpt-image-2", "prompt": "a star"}
PHOTO = picture(3, size=(64, 64))


def allowed(field: str) -> list[Any]:
    schema = FIELDS[field]
    if "$ref" in str(schema.get("anyOf", "")):
        schema = {"anyOf": [SCHEMAS["InputFidelity"], {"type": "null"}]}
    kinds = SCHEMAS["PartialImages"]["anyOf"] if "$ref" in schema else schema.get("anyOf", [schema])
    listed = [value for kind in kinds for value in kind.get("enum", ())]
    is_nullable = any("null" in kind.get("type", ()) for kind in kinds)
    values = [*listed, *EXAMPLES.get(field, ()), *([None] if is_nullable else ())]
    return [value for value in dict.fromkeys(values) if (field, value) != ("background", "transparent")]


SINGLE_VALUES = [(field, value) for field in FIELDS if field not in FILES for value in allowed(field)]
combinations = st.fixed_dictionaries(
    {"model": st.sampled_from(allowed("model")), "prompt": st.sampled_from(["a star", "x" * 5000])},
    optional={
        field: st.sampled_from([1, 2] if field == "n" else allowed(field))
        for field in FIELDS
        if field not in (*BODY, *FILES)
    },
)


def require_answer(client: httpx.Client, body: dict[str, Any], name: str = "image") -> None:
    check(body | {"image": ""}, "CreateImageEditRequest")
    form = {
        field: "" if value is None else value if isinstance(value, str) else json.dumps(value)
        for field, value in body.items()
    }
    response = client.post(EDITS, files={name: ("photo.png", io.BytesIO(PHOTO), "image/png")}, data=form)
    assert response.status_code == 200, response.text[:1000]
    num_images = body.get("n") or 1
    if body.get("stream"):
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
        for event in events:
            kind = "PartialImage" if event["type"].endswith("partial_image") else "Completed"
            check(event, f"ImageEdit{kind}Event")
        assert len(events) == num_images * (1 + (body.get("partial_images") or 0))
        return
    answer = response.json()
    check(answer, "ImagesResponse")
    field = "url" if body.get("response_format") == "url" else "b64_json"
    assert [next(iter(image)) for image in answer["data"]] == [field] * num_images
    asked = body.get("size") or "auto"
    assert answer["size"] == ("64x64" if asked == "auto" else asked)


@pytest.mark.parametrize(
    ("field", "value"), SINGLE_VALUES, ids=[f"{field}-{str(value)[:24]}" for field, value in SINGLE_VALUES]
)
def test_each_value_of_each_field_is_answered(client: httpx.Client, field: str, value: Any) -> None:
    require_answer(client, BODY | {field: value})


@given(body=combinations, name=st.sampled_from(["image", "image[]"]))
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_each_combination_is_answered(client: httpx.Client, body: dict[str, Any], name: str) -> None:
    require_answer(client, body, name)


def test_what_cannot_be_done_is_refused_and_what_has_no_effect_is_named(client: httpx.Client) -> None:
    files = {"image": ("photo.png", PHOTO)}
    refused = client.post(EDITS, files=files, data=BODY | {"background": "transparent"})
    assert "images are opaque" in error_of(refused, 400)["message"]
    answered = client.post(EDITS, files=files | {"markup": ("m.png", PHOTO)}, data=BODY | {"user": "someone"})
    assert {"markup is ignored", "user is ignored"} <= set(answered.json()["warnings"])
