"""Mixtures, codes and words where they meet tenants, streams and images in each of several styles."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.backbones import SERVED_BY_BOTH
from tests.support.generations import events_of, file_of, generate, images_of
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload

ACME, BETA = Key("acme"), Key("beta")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("together")
    settings = Settings(data_dir=folder, api_keys=lines(ACME, BETA), metadata="none")
    with serving(settings, tiny_generator()) as running:
        running.wait_until_settled()
        yield running


def test_styles_of_text_and_code_belong_to_their_tenant_and_anyone_can_use_a_code(
    shared: Running,
) -> None:
    with ACME.client(shared) as acme, BETA.client(shared) as beta:
        words = acme.post("/v1/styles", json={"text": "a red star"}).json()
        code = acme.post("/v1/styles", json={"code": words["code"], "name": "kept"}).json()
        for style in (words, code):
            path = f"/v1/styles/{style['id']}"
            assert acme.get(path).json() == style
            for refused in (beta.get(path), beta.patch(path, json={"name": "x"}), beta.delete(path)):
                assert refused.status_code == 404
            assert generate(beta, styles=[{"id": style["id"]}]).status_code == 404
        assert beta.get("/v1/styles").json()["data"] == []
        own = beta.post("/v1/styles", json={"text": "a red star"})
        assert own.status_code == 201
        assert own.json()["id"] != words["id"]
        drawn = [images_of(generate(client, style=words["code"], seed=1)) for client in (acme, beta)]
        assert drawn[0] == drawn[1] == images_of(generate(acme, style=words["id"], seed=1))


@SERVED_BY_BOTH
def test_a_mixture_is_streamed_as_it_is_answered(client: httpx.Client) -> None:
    styles = [{"id": upload(client, picture(seed)).json()["id"]} for seed in (300, 301)]
    *_, last = events_of(client, styles=styles, seed=1, partial_images=1)
    assert [file_of(last)] == images_of(generate(client, styles=styles, seed=1))


@SERVED_BY_BOTH
def test_a_mixture_and_images_in_each_style_exclude_each_other(client: httpx.Client) -> None:
    code = upload(client, picture(302)).json()["code"]
    refused = generate(client, styles=[{"id": code}], styles_each=[code])
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "styles"
    several = generate(client, styles_each=[code, None], seed=1)
    assert images_of(several)[0] == images_of(generate(client, style=code, seed=1))[0]
