"""The openai package drives the service unchanged."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.server import Running
from tests.uploads import is_image, picture, upload


@pytest.fixture
def sdk(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as sdk:
        yield sdk


def test_it_draws_with_and_without_a_style(sdk: openai.OpenAI, client: httpx.Client) -> None:
    style = upload(client, picture(40)).json()["id"]
    plain = sdk.images.generate(prompt="a star", n=2, extra_body={"seed": 3})
    styled = sdk.images.generate(prompt="a star", extra_body={"seed": 3, "style": style})
    assert plain.data is not None
    assert styled.data is not None
    assert len(plain.data) == 2
    files = [base64.b64decode(image.b64_json or "") for image in (*plain.data, *styled.data)]
    assert len(set(files)) == 3
    assert all(is_image(file, "PNG", (64, 64)) for file in files)


def test_its_error_classes_come_from_our_answers(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="64x64") as refused:
        sdk.images.generate(prompt="a star", size="1024x1024")
    assert (refused.value.param, refused.value.code) == ("size", "unsupported_size")
    assert refused.value.request_id is not None
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.images.generate(prompt="a star", extra_body={"style": "sty_nobody"})
    assert unknown.value.code == "style_not_found"


def test_it_lists_the_model(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["tiny"]
