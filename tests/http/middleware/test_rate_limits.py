"""Rate limits over HTTP: what each answer tells, what a refusal tells, what counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from service.access.api_key import Limits
from service.settings import Settings
from service.storage.embedded_valkey.server import EmbeddedValkey
from tests.support.api_keys import Key, lines
from tests.support.generations import GENERATIONS
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator

pytestmark = pytest.mark.slow

STAR = {"prompt": "a star"}


# Each test spends a key of its own: requests and images a minute.
KEYS = {
    name: Key(name, limits=Limits(requests, images))
    for name, requests, images in (
        ("tells", 3, 5),
        ("images", None, 3),
        ("sdk", 1, None),
        ("errors", 50, 50),
        ("free", None, None),
    )
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("rates"), api_keys=lines(*KEYS.values()))
    with serving(settings, tiny_generator()) as running:
        running.wait_until_settled()
        yield running


def limits_of(response: httpx.Response, what: str) -> list[int]:
    """The limit and what is left of it; the time until it is whole again must be a duration."""
    assert re.fullmatch(r"\d+\.\d{3}s", response.headers[f"x-ratelimit-reset-{what}"])
    return [int(response.headers[f"x-ratelimit-{name}-{what}"]) for name in ("limit", "remaining")]


def test_every_response_has_the_remaining_limits_and_a_429_the_time_to_wait(limited: Running) -> None:
    with KEYS["tells"].client(limited) as client:
        listed = client.get("/v1/models")
        assert (limits_of(listed, "requests"), limits_of(listed, "images")) == ([3, 2], [5, 5])
        drawn = client.post(GENERATIONS, json=STAR | {"n": 2})
        assert (limits_of(drawn, "requests"), limits_of(drawn, "images")) == ([3, 1], [5, 3])
        assert client.get("/v1/nothing").status_code == 404
        refused = client.post(GENERATIONS, json=STAR)
    assert refused.status_code == 429
    assert limits_of(refused, "requests") == [3, 0]
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "3 requests a minute" in error["message"]
    assert f"in {refused.headers['Retry-After']} seconds" in error["message"]


def test_every_requested_image_counts(limited: Running) -> None:
    with KEYS["images"].client(limited) as client:
        assert client.post(GENERATIONS, json=STAR | {"n": 2}).status_code == 200
        refused = client.post(GENERATIONS, json=STAR | {"n": 2})
        assert refused.status_code == 429
        assert "2 more will be available" in refused.json()["error"]["message"]
        drawn = client.post(GENERATIONS, json=STAR)
        assert (drawn.status_code, limits_of(drawn, "images")) == (200, [3, 0])
        never = client.post(GENERATIONS, json=STAR | {"n": 4})
        assert never.status_code == 400
        assert never.json()["error"]["param"] == "n"
        assert "3 a minute" in never.json()["error"]["message"]
        assert "x-ratelimit-limit-requests" not in never.headers


def test_a_request_that_is_wrong_costs_no_image(limited: Running) -> None:
    with KEYS["errors"].client(limited) as client:
        refused = client.post(GENERATIONS, json=STAR | {"size": "7x7"})
        assert (refused.status_code, limits_of(refused, "images")) == (400, [50, 50])
        refused = client.post(GENERATIONS, json=STAR | {"n": "two"})
        assert (refused.status_code, limits_of(refused, "images")) == (400, [50, 50])


def test_a_key_without_limits_and_an_answer_without_a_key_tell_nothing(limited: Running) -> None:
    with KEYS["free"].client(limited) as client:
        answers = [client.get("/v1/models"), client.get("/livez")]
    with limited.client() as client:
        answers.append(client.get("/v1/models"))
    assert [answer.status_code for answer in answers] == [200, 200, 401]
    assert not [name for answer in answers for name in answer.headers if name.startswith("x-ratelimit")]


def test_the_sdk_raises_its_class(limited: Running) -> None:
    secret = KEYS["sdk"].secret
    with openai.OpenAI(base_url=f"{limited.url}/v1", api_key=secret, max_retries=0) as sdk:
        sdk.images.generate(prompt="a star")
        with pytest.raises(openai.RateLimitError) as refused:
            sdk.images.generate(prompt="a star")
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_replicas_on_one_redis_share_the_count(tmp_path: Path, valkey: EmbeddedValkey) -> None:
    key = Key("acme", limits=Limits(requests=3))
    settings = Settings(data_dir=tmp_path, redis_url=valkey.url, api_keys=lines(key))
    with serving(settings, tiny_generator()) as one, serving(settings, tiny_generator()) as other:
        for replica in (one, other):
            replica.wait_until_settled()
        statuses = []
        for replica in (one, other, one, other):
            with key.client(replica) as client:
                statuses.append(client.get("/v1/models").status_code)
    assert statuses == [200, 200, 200, 429]


async def test_a_replica_counts_alone_without_redis(tmp_path: Path, valkey: EmbeddedValkey) -> None:
    key = Key("acme", limits=Limits(requests=2))
    settings = Settings(data_dir=tmp_path, redis_url=valkey.url, api_keys=lines(key))
    with serving(settings, tiny_generator()) as server, key.client(server) as client:
        server.wait_until_settled()
        await valkey.stop()
        assert [client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
