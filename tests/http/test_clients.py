"""Clients that know nothing of Atelier: litellm and openai themselves, and the bodies that others send."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.generations import GENERATIONS, error_of, events_of, file_of, images_of
from tests.support.openai_sdk import files_of, sdk_of
from tests.support.server import Running, ready_server, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import is_image, picture, upload

pytestmark = pytest.mark.slow

# As each client builds it, for a user who has set its address and a key and nothing else.
BODIES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "Open WebUI": (
        {"model": "dall-e-2", "prompt": "a star", "n": 1, "size": "512x512", "response_format": "b64_json"},
        (512, 512),
    ),
    "Open WebUI, gpt-image": (
        {"model": "gpt-image-1", "prompt": "a star", "n": 1, "size": "auto"},
        (64, 64),
    ),
    "n8n": (
        {"model": "gpt-image-1-mini", "prompt": "a star", "n": 1, "size": "1024x1024", "quality": "medium"},
        (1024, 1024),
    ),
    "n8n, url": (
        {
            "model": "dall-e-3",
            "prompt": "a star",
            "quality": "standard",
            "size": "1792x1024",
            "style": "natural",
            "response_format": "url",
        },
        (1792, 1024),
    ),
    "LangChain": (
        {
            "model": "dall-e-3",
            "prompt": "a star",
            "n": 1,
            "size": "1024x1024",
            "response_format": "url",
            "style": "vivid",
            "quality": "standard",
            "user": None,
        },
        (1024, 1024),
    ),
    "LibreChat": (
        {
            "model": "gpt-image-1",
            "prompt": "a star",
            "background": "auto",
            "quality": "auto",
            "size": "auto",
            "output_format": "webp",
            "n": 1,
        },
        (64, 64),
    ),
    "LlamaIndex": (
        {
            "model": "dall-e-3",
            "prompt": "a star",
            "n": 1,
            "quality": "standard",
            "size": "1024x1024",
            "response_format": "b64_json",
        },
        (1024, 1024),
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    aliases = "gpt-image-1=tiny, dall-e-3=tiny, gpt-image-1-mini=tiny, dall-e-2=tiny"
    settings = Settings(data_dir=tmp_path_factory.mktemp("server"), model_aliases=aliases)
    with serving(settings, tiny_generator()) as running:
        running.wait_until_settled()
        yield running


@pytest.fixture
def style(client: httpx.Client) -> str:
    return str(upload(client, picture(90)).json()["id"])


@pytest.fixture
def other(client: httpx.Client) -> str:
    return str(upload(client, picture(91)).json()["id"])


def pixels(file: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


def at(size: tuple[int, int], file: bytes) -> NDArray[np.uint8]:
    """What the native image of the same request is when it is resized to cover a size."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))


def native(client: httpx.Client, **fields: Any) -> bytes:
    """The image as the model draws it."""
    return images_of(client.post(GENERATIONS, json={"prompt": "a star", "seed": 7} | fields))[0]


@pytest.mark.parametrize("name", BODIES)
def test_the_body_of_a_client_is_answered_with_the_pixels_that_it_asked_for(
    client: httpx.Client, name: str
) -> None:
    body, size = BODIES[name]
    response = client.post(GENERATIONS, json=body | {"seed": 7})
    assert response.status_code == 200, response.text
    (image,) = response.json()["data"]
    if body.get("response_format") == "url":
        header, _, encoded = image["url"].partition(",")
        assert header == "data:image/png;base64"
        assert "b64_json" not in image
        file = base64.b64decode(encoded)
    else:
        file = base64.b64decode(image["b64_json"])
    format = body.get("output_format", "png").upper()
    assert is_image(file, format, size)
    assert response.json()["size"] == f"{size[0]}x{size[1]}"
    if format == "PNG":
        assert np.array_equal(pixels(file), at(size, native(client, size=native_size_of(response))))


def native_size_of(response: httpx.Response) -> str:
    return response.headers["X-Native-Size"]


# litellm


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network when imported
    import litellm  # here, as it takes seconds

    return litellm


def test_litellm_draws_at_the_size_it_asks_for_and_in_a_style(
    litellm: Any, server: Running, client: httpx.Client, style: str
) -> None:
    service = {"api_base": f"{server.url}/v1", "api_key": "unused", "prompt": "a star"}
    plain = litellm.image_generation(model="openai/gpt-image-1", size="512x512", seed=7, **service)
    (image,) = plain.data
    assert np.array_equal(pixels(base64.b64decode(image.b64_json)), at((512, 512), native(client)))
    styled = litellm.image_generation(model=f"openai/tiny@{style}:0.7", seed=7, **service)
    expected = native(client, style={"id": style, "strength": 0.7})
    assert base64.b64decode(styled.data[0].b64_json) == expected != native(client)
    extra = litellm.image_generation(
        model="openai/gpt-image-1", extra_body={"style": {"id": style, "strength": 0.7}, "seed": 7}, **service
    )
    assert base64.b64decode(extra.data[0].b64_json) == expected


async def test_litellm_draws_asynchronously(litellm: Any, server: Running, client: httpx.Client) -> None:
    drawn = await litellm.aimage_generation(
        model="openai/dall-e-3",
        prompt="a star",
        seed=7,
        api_base=f"{server.url}/v1",
        api_key="unused",
        quality="hd",
    )
    assert base64.b64decode(drawn.data[0].b64_json) == native(client)


# openai


def test_openai_draws_through_an_alias_in_a_style_at_a_size_that_the_model_does_not_have(
    server: Running, client: httpx.Client, style: str
) -> None:
    with sdk_of(server) as sdk:
        answer = sdk.images.generate(
            model=f"gpt-image-1@{style}", prompt="a star", size="512x512", extra_body={"seed": 7}
        )
        legacy = sdk.images.generate(
            model="dall-e-3", prompt="a star", response_format="url", style="vivid", extra_body={"seed": 7}
        )
    (file,) = files_of(answer)
    assert answer.size == "512x512"
    assert np.array_equal(pixels(file), at((512, 512), native(client, style=style)))
    assert legacy.data is not None
    url = legacy.data[0].url
    assert url == "data:image/png;base64," + base64.b64encode(native(client)).decode()


async def test_openai_streams_through_an_alias_in_a_style_at_a_size_that_the_model_does_not_have(
    server: Running, client: httpx.Client, style: str
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as sdk:
        stream = await sdk.images.generate(
            model=f"gpt-image-1@{style}",
            prompt="a star",
            size="512x512",
            stream=True,
            partial_images=2,
            extra_body={"seed": 7},
        )
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        *["image_generation.partial_image"] * 2,
        "image_generation.completed",
    ]
    files = [base64.b64decode(event.b64_json) for event in events]
    assert all(is_image(file, "PNG", (512, 512)) for file in files)
    assert {event.size for event in events} == {"512x512"}
    assert np.array_equal(pixels(files[-1]), at((512, 512), native(client, style=style)))


# Sizes


def test_previews_have_the_size_that_was_asked_for_and_are_those_of_the_native_stream(
    client: httpx.Client,
) -> None:
    asked = events_of(client, model="dall-e-3", size="256x128", seed=7, partial_images=2)
    drawn = events_of(client, size="96x64", seed=7, partial_images=2)
    assert [event.get("partial_size") for event in asked] == ["256x128", "256x128", None]
    for event, small in zip(asked, drawn, strict=True):
        assert np.array_equal(pixels(file_of(event)), at((256, 128), file_of(small)))
    assert "drawn at 96x64, the nearest, and resized and cropped" in asked[-1]["warnings"][0]


def test_a_raw_image_has_the_size_that_was_asked_for(client: httpx.Client) -> None:
    body = {"prompt": "a star", "seed": 7, "size": "192x128"}
    raw = client.post(GENERATIONS, json=body, headers={"Accept": "image/webp"})
    assert is_image(raw.content, "WEBP", (192, 128))
    assert raw.headers["X-Native-Size"] == "96x64"
    assert (
        "size 192x128 is not enabled: drawn at 96x64, the nearest, and resized" in raw.headers["X-Warnings"]
    )


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ("auto", "64x64"),
        ("64x64", "64x64"),
        ("96x64", "96x64"),
        ("512x512", "64x64"),
        ("16x16", "64x64"),
        ("1792x1024", "96x64"),
        ("1024x1792", "64x64"),
        ("1536x1024", "96x64"),
        ("4096x1024", "96x64"),
    ],
)
def test_the_size_of_the_nearest_aspect_ratio_is_drawn(client: httpx.Client, asked: str, drawn: str) -> None:
    response = client.post(GENERATIONS, json={"prompt": "a star", "size": asked})
    assert response.headers["X-Native-Size"] == drawn
    assert response.json()["size"] == ("64x64" if asked == "auto" else asked)
    has_warning = any(text.startswith("size ") for text in response.json().get("warnings", ()))
    assert has_warning == (asked not in ("auto", drawn))


def test_the_native_policy_refuses_a_size_that_is_not_enabled(tmp_path: Path) -> None:
    with ready_server(tmp_path, tiny_generator(), size_policy="native") as (_, client):
        refused = client.post(GENERATIONS, json={"prompt": "a star", "size": "512x512"})
        assert error_of(refused, 400)["code"] == "unsupported_size"


# The model's name


def test_a_style_in_the_models_name_is_the_style_of_the_body(
    client: httpx.Client, style: str, other: str
) -> None:
    code = client.get(f"/v1/styles/{style}").json()["code"]
    mixture = {"styles": [{"id": style, "weight": 2}, {"id": other, "weight": -0.5}]}
    cases: list[tuple[str, dict[str, Any]]] = [
        (f"tiny@{style}", {"style": style}),
        (f"@{style}", {"style": style}),
        (f"dall-e-3@{style}:0.7", {"style": {"id": style, "strength": 0.7}}),
        (f"@{style}:0", {}),
        (f"tiny@{code}", {"style": code}),
        (f"tiny@{code}:1.5", {"style": {"id": code, "strength": 1.5}}),
        (f"tiny@{style}:2+{other}:-0.5", mixture),
        (f"@{style}+{other}", {"styles": [{"id": style}, {"id": other}]}),
    ]
    for model, fields in cases:
        assert native(client, model=model) == native(client, **fields), model
    named = client.post(GENERATIONS, json={"prompt": "a star", "model": f"@{style}:0.7"}).json()["style"]
    assert (named["id"], named["strength"]) == (style, 0.7)
    mixed = client.post(GENERATIONS, json={"prompt": "a star", "model": f"@{style}:3+{other}"}).json()
    assert [(term["id"], term["weight"]) for term in mixed["styles"]] == [(style, 0.75), (other, 0.25)]


@pytest.mark.parametrize(
    ("model", "code", "part_of_message"),
    [
        ("tiny@", "invalid_value", "has no style after @"),
        ("tiny@sty_x+", "invalid_value", "has no style after @"),
        ("tiny@sty_x:", "invalid_value", "has '' as a strength; it goes from 0 to 1.5"),
        ("tiny@sty_x:1.6", "invalid_value", "has '1.6' as a strength"),
        ("tiny@sty_x:much", "invalid_value", "has 'much' as a strength"),
        ("tiny@sty_x:11+sty_y", "invalid_value", "has '11' as a weight; it goes from -10 to 10"),
        ("tiny@" + "+".join(["sty_x"] * 11), "invalid_value", "a mixture has at most 10"),
        ("tiny@sty_x:1+sty_y:-1", "invalid_value", "relative to their sum, which is 0"),
        ("tiny@sty_nobody", "style_not_found", "There is no style 'sty_nobody'"),
        ("tiny@sc1_nothing", "invalid_style_code", ""),
        (
            "gpt-4@sty_nobody",
            "model_not_found",
            "has no model gpt-4. Name one of tiny, gpt-image-1, dall-e-3",
        ),
    ],
)
def test_a_name_that_cannot_be_read_says_what_would_be_right(
    client: httpx.Client, model: str, code: str, part_of_message: str
) -> None:
    refused = client.post(GENERATIONS, json={"prompt": "a star", "model": model})
    error = error_of(refused, 404 if code.endswith("_not_found") else 400)
    assert (error["param"], error["code"]) == ("model", code)
    assert part_of_message in error["message"]


@pytest.mark.parametrize(
    "fields", [{"style": "STYLE"}, {"styles_each": [None]}, {"styles": [{"id": "STYLE"}]}]
)
def test_a_style_in_two_places_is_a_conflict(
    client: httpx.Client, style: str, fields: dict[str, Any]
) -> None:
    body = {"prompt": "a star", "model": f"tiny@{style}"} | json.loads(
        json.dumps(fields).replace("STYLE", style)
    )
    error = error_of(client.post(GENERATIONS, json=body), 400)
    assert (error["param"], error["code"]) == ("model", "conflicting_parameters")
    both = client.post(GENERATIONS, json={"prompt": "a star", "model": f"@{style}", "style": "vivid"})
    assert both.json()["style"]["id"] == style


def test_aliases_are_listed_with_the_model_that_they_stand_for(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()["data"]
    assert [(model["id"], model["alias_of"]) for model in models] == [
        ("tiny", None),
        ("gpt-image-1", "tiny"),
        ("dall-e-3", "tiny"),
        ("gpt-image-1-mini", "tiny"),
        ("dall-e-2", "tiny"),
    ]
    assert client.get("/v1/models/dall-e-3").json() == models[2]
    assert client.get("/v1/models/tiny@sty_x:0.5").json()["alias_of"] == "tiny"
    assert client.get("/v1/models/dall-e-4").json()["error"]["code"] == "model_not_found"


def test_an_alias_of_a_model_that_is_not_served_stops_the_start(tmp_path: Path) -> None:
    with serving(
        Settings(data_dir=tmp_path, model_aliases="gpt-image-1=infinity-2b"), tiny_generator()
    ) as it:
        it.wait_until_settled()
        assert str(it.service.failure) == (
            "ATELIER_MODEL_ALIASES says that gpt-image-1 stands for infinity-2b, which is not served: this "
            "service draws with tiny. Write gpt-image-1=tiny, or leave it out."
        )


# The style of an API key


def test_the_style_of_an_api_key_is_that_of_requests_that_name_none(tmp_path: Path) -> None:
    maker = Key("maker", tenant="shop")
    with (
        ready_server(tmp_path, tiny_generator(), api_keys=maker.line) as (server, _),
        maker.client(server) as client,
    ):
        style, other = (upload(client, picture(seed)).json()["id"] for seed in (92, 93))
    half = Key("half", tenant="shop", style=f"{style}:0.5")
    lost = Key("lost", tenant="shop", style="sty_" + "a" * 36)
    with ready_server(tmp_path, tiny_generator(), api_keys=lines(maker, half, lost)) as (server, _):
        with maker.client(server) as client:
            plain, styled = native(client), native(client, style={"id": style, "strength": 0.5})
            in_other = native(client, style=other)
        with half.client(server) as client:
            assert native(client) == native(client, style="vivid") == native(client, style=None) == styled
            assert native(client, style=other) == native(client, model=f"tiny@{other}") == in_other
            assert native(client, styles_each=[None]) == plain
            answer = client.post(GENERATIONS, json={"prompt": "a star"}).json()
            assert (answer["style"]["id"], answer["style"]["strength"]) == (style, 0.5)
        with lost.client(server) as client:
            error = error_of(client.post(GENERATIONS, json={"prompt": "a star"}), 404)
            assert (error["param"], error["code"]) == ("Authorization", "style_not_found")
    assert len({plain, styled, in_other}) == 3
