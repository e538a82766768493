"""A tenant sees its own styles alone; for another they are not there."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from redis.asyncio import Redis

from service.access.api_key import Limits
from service.errors import StyleNotFound
from service.settings import Settings
from service.storage.schema import removed_key
from service.styles.record import is_style_id, style_id_of
from tests.support.api_keys import Key, lines
from tests.support.generations import GENERATIONS, error_of
from tests.support.server import Running, ready_server, serving
from tests.support.styles import LARGE, SMALL, Replica, feature_of, picture_of
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload

ACME, BETA, BETA_TOO, OLD = Key("acme"), Key("beta"), Key("beta-2", tenant="beta"), Key("old", tenant="")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("tenants"), api_keys=lines(ACME, BETA, BETA_TOO, OLD)
    )
    with serving(settings, tiny_generator()) as running:
        running.wait_until_settled()
        yield running


@pytest.fixture
def acme(shared: Running) -> Iterator[httpx.Client]:
    with ACME.client(shared) as client:
        yield client


@pytest.fixture
def beta(shared: Running) -> Iterator[httpx.Client]:
    with BETA.client(shared) as client:
        yield client


# Admission


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        f"Basic {ACME.secret}",
        ACME.secret,
        f"Bearer {ACME.secret}x",
        "Bearer \xff",
    ],
    ids=["none", "empty", "no_secret", "basic", "no_scheme", "one_character_more", "no_ascii"],
)
def test_without_a_key_of_ours_the_answer_is_401(shared: Running, header: str | None) -> None:
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    with shared.client() as client:
        refused = client.get("/v1/styles", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert ACME.secret not in refused.text


def test_every_path_of_the_api_needs_a_key_and_the_document_says_so(shared: Running) -> None:
    with shared.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        for path, methods in paths.items():
            for method, described in methods.items():
                status = client.request(method, re.sub(r"{\w+}", "x", path)).status_code
                is_open = path in ("/livez", "/readyz", "/metrics", "/version")
                assert (status == 401) != is_open, path
                assert ("security" in described) != is_open, path
        for path in ("/v1", "/v1/", "/v1/nothing", "/v1//styles", "/v1/%73tyles"):
            assert client.get(path).status_code == 401
        for path in ("/docs", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_the_scheme_is_read_in_any_case(shared: Running) -> None:
    with shared.client() as client:
        assert (
            client.get("/v1/models", headers={"Authorization": f"BEARER  {ACME.secret}"}).status_code == 200
        )


def test_the_answer_comes_before_the_body(shared: Running) -> None:
    head = "POST /v1/styles HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection((shared.host, shared.port)) as connection:
        connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_the_sdk_raises_its_class_for_a_wrong_key(shared: Running) -> None:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key=ACME.secret, max_retries=0) as sdk:
        assert [model.id for model in sdk.models.list()] == ["tiny"]
    with (
        openai.OpenAI(base_url=f"{shared.url}/v1", api_key="sk-wrong", max_retries=0) as sdk,
        pytest.raises(openai.AuthenticationError, match="not one of this service's") as refused,
    ):
        sdk.images.generate(prompt="a star")
    assert refused.value.code == "invalid_api_key"


def test_refusals_are_counted(shared: Running) -> None:
    with shared.client() as client:
        client.get("/v1/styles")
        counted = client.get("/metrics").text
    assert 'atelier_refusals_total{reason="invalid_api_key"} 0.0' not in counted
    assert "acme" not in counted


# What a tenant sees


def test_the_same_picture_of_two_tenants_is_two_styles(acme: httpx.Client, beta: httpx.Client) -> None:
    first = upload(acme, picture(1), name="first")
    second = upload(beta, picture(1), name="second")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    assert second.json()["name"] == "second"
    assert upload(acme, picture(1)).json() == first.json()


def test_anothers_style_is_answered_as_one_that_never_was(acme: httpx.Client, beta: httpx.Client) -> None:
    style = upload(acme, picture(2)).json()["id"]
    drawn = acme.post(GENERATIONS, json={"prompt": "a star", "style": style})
    assert drawn.status_code == 200
    never = style_id_of(["00" * 32], tenant="acme")

    def answers(id: str) -> list[tuple[int, str]]:
        path = f"/v1/styles/{id}"
        asked = [
            beta.get(path),
            beta.get(f"{path}/image"),
            beta.delete(path),
            beta.post(GENERATIONS, json={"prompt": "a star", "style": id}),
            beta.get("/v1/styles", params={"after": id}),
        ]
        return [(answer.status_code, answer.text.replace(id, "ID")) for answer in asked]

    assert answers(style) == answers(never)
    assert [status for status, _ in answers(style)] == [404, 404, 404, 404, 400]
    assert acme.get(f"/v1/styles/{style}").status_code == 200
    assert acme.post(GENERATIONS, json={"prompt": "a star", "style": style}).status_code == 200


def test_pages_hold_the_tenants_own_styles(acme: httpx.Client, beta: httpx.Client, shared: Running) -> None:
    mine = {upload(acme, picture(seed)).json()["id"] for seed in (3, 4)}
    theirs = upload(beta, picture(3)).json()["id"]
    listed = {style["id"] for style in acme.get("/v1/styles").json()["data"]}
    assert mine <= listed
    assert theirs not in listed
    with BETA_TOO.client(shared) as colleague:
        assert colleague.get("/v1/styles").json() == beta.get("/v1/styles").json()
        assert colleague.get(f"/v1/styles/{theirs}").status_code == 200


def test_what_one_tenant_deletes_the_other_keeps(acme: httpx.Client, beta: httpx.Client) -> None:
    mine, theirs = (upload(client, picture(5)).json()["id"] for client in (acme, beta))
    assert acme.delete(f"/v1/styles/{mine}").status_code == 200
    assert acme.get(f"/v1/styles/{mine}").status_code == 404
    assert beta.get(f"/v1/styles/{theirs}/image").status_code == 200
    assert beta.post(GENERATIONS, json={"prompt": "a star", "style": theirs}).status_code == 200


@pytest.mark.slow
def test_styles_from_before_there_were_keys_belong_to_the_tenant_without_a_name(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("before")
    with serving(Settings(data_dir=folder), tiny_generator()) as running, running.client() as client:
        running.wait_until_settled()
        before = upload(client, picture(6)).json()
    with serving(Settings(data_dir=folder, api_keys=lines(ACME, OLD)), tiny_generator()) as running:
        running.wait_until_settled()
        with OLD.client(running) as old, ACME.client(running) as acme:
            assert old.get("/v1/styles").json()["data"] == [before]
            assert upload(old, picture(6)).status_code == 200
            assert acme.get("/v1/styles").json()["data"] == []
            assert acme.get(f"/v1/styles/{before['id']}").status_code == 404


# The store


async def test_a_picture_and_a_feature_in_memory_or_lost_are_their_tenants_alone(redis: Redis) -> None:
    replica = Replica(redis)
    acme, beta = replica.store.of("acme"), replica.store.of("beta")
    style, _ = await acme.create([picture_of(1)], name=None)
    for size in (SMALL, LARGE):  # cached since it was created, and rebuilt from the picture
        feature = await acme.feature(style.id, size)
        assert feature.to_bytes() == feature_of(picture_of(1), size).to_bytes()
        for other in (beta, replica.store):
            with pytest.raises(StyleNotFound):
                await other.feature(style.id, size)
    for other in (beta, replica.store):
        with pytest.raises(StyleNotFound):
            await other.picture(style.id)
    assert await acme.picture(style.id) == picture_of(1).content


async def test_of_a_tenants_deleted_style_its_place_in_lists_alone_is_left(redis: Redis) -> None:
    acme = Replica(redis).store.of("acme")
    style, _ = await acme.create([picture_of(1)], name=None)
    assert await redis.keys("atelier:index:acme") == [b"atelier:index:acme"]
    await acme.delete(style.id)
    assert sorted(await redis.keys()) == [removed_key(style.id).encode(), b"atelier:sequence"]


def test_an_id_belongs_to_one_tenant() -> None:
    tenants = ("", "acme", "beta", "Acme")
    ids = [style_id_of(["ab" * 32], tenant=tenant) for tenant in tenants]
    assert [[is_style_id(id, tenant=tenant) for tenant in tenants] for id in ids] == [
        [True, False, False, False],
        [False, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    # Given out, and so never to change.
    assert ids[:2] == ["sty_lczb64ttqkp5qy777m54kwto2g", "sty_fkgsxsdnawnpbclsnxpkwidmbmalgw33no2s"]


def test_a_key_with_a_quota_is_told_what_is_used_and_what_makes_room(tmp_path: Path) -> None:
    small, large = Key("small", tenant="acme", limits=Limits(styles=1)), Key("large", tenant="acme")
    with (
        ready_server(tmp_path, tiny_generator(), api_keys=lines(small, large)) as (server, _),
        small.client(server) as client,
        large.client(server) as other,
    ):
        style = upload(client, picture(1)).json()["id"]
        error = error_of(upload(client, picture(2)), 403)
        assert error["code"] == "style_quota_exceeded"
        assert "1 styles, of at most 1" in error["message"]
        assert "DELETE /v1/styles/{id}" in error["message"]
        assert upload(client, picture(1)).status_code == 200
        assert upload(other, picture(2)).status_code == 201  # of the same tenant, with another quota
        assert error_of(upload(client, picture(3)), 403)["message"].startswith("There is no room")
        for deleted in (style, upload(other, picture(2)).json()["id"]):
            assert client.delete(f"/v1/styles/{deleted}").status_code == 200
        assert upload(client, picture(3)).status_code == 201


def test_a_service_without_keys_has_the_quota_of_the_settings(tmp_path: Path) -> None:
    with ready_server(tmp_path, tiny_generator(), max_styles=1) as (_, client):
        assert upload(client, picture(1)).status_code == 201
        assert error_of(upload(client, picture(2)), 403)["code"] == "style_quota_exceeded"
        text = client.post("/v1/styles", json={"text": "ink"})
        assert error_of(text, 403)["code"] == "style_quota_exceeded"
