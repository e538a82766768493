"""One request in several styles, and requests that meet: one content path for all of them."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.backbones import SERVED_BY_BOTH
from tests.support.busy_server import busy, metric, post, wait_until_queued
from tests.support.generations import COMPLETED, GENERATIONS, events_of, generate, images_of
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

SHARED = "atelier_content_paths_shared_total"


@pytest.fixture
def styles(client: httpx.Client) -> list[str]:
    return [upload(client, picture(seed)).json()["id"] for seed in (80, 81)]


@SERVED_BY_BOTH
def test_each_image_is_the_one_of_its_style_and_seed_alone(client: httpx.Client, styles: list[str]) -> None:
    weak = {"id": styles[0], "strength": 0.5}
    mixed: list[Any] = [None, styles[0], styles[1], weak]
    several = generate(client, seed=5, n=2, styles_each=mixed)
    answer = several.json()
    assert [image["seed"] for image in answer["data"]] == [5, 5, 5, 5, 6, 6, 6, 6]
    assert [image.get("style", {}).get("id") for image in answer["data"][:3]] == [None, *styles]
    assert answer["data"][3]["style"]["strength"] == 0.5
    assert "style" not in answer
    alone = [
        images_of(generate(client, seed=seed, **fields))[0]
        for seed in (5, 6)
        for fields in ({} if style is None else {"style": style} for style in mixed)
    ]
    assert images_of(several) == alone
    assert len(set(alone)) == 8


@SERVED_BY_BOTH
def test_several_styles_cost_one_content_path(client: httpx.Client, styles: list[str]) -> None:
    before = metric(client, SHARED), metric(client, "atelier_batch_rows_sum")
    images_of(generate(client, seed=5, styles_each=styles))
    assert metric(client, SHARED) - before[0] == 1
    # One content path and two styled ones, each with and without the prompt: 6 rows, not 8.
    assert metric(client, "atelier_batch_rows_sum") - before[1] == 6


@SERVED_BY_BOTH
def test_a_seed_that_is_left_out_is_the_same_for_all_styles(client: httpx.Client, styles: list[str]) -> None:
    first, second = generate(client, styles_each=styles).json()["data"]
    assert first["seed"] == second["seed"]


def test_separate_requests_that_meet_share_a_content_path_when_all_of_it_agrees(tmp_path: Path) -> None:
    same: dict[str, Any] = {"prompt": "a star", "seed": 9}
    with (
        ThreadPoolExecutor(6) as threads,
        busy(tmp_path, max_queued=8) as (server, generator),
        server.client() as client,
    ):
        style = upload(client, picture(82)).json()["id"]
        first = threads.submit(post, server, {"prompt": "a mug"})
        generator.wait_for_batch()
        before = metric(client, SHARED)
        bodies = [
            same,
            same | {"style": style},
            same | {"guidance": 2.0},
            same | {"negative_prompt": "a cat"},
        ]
        waiting = [threads.submit(post, server, body) for body in bodies]
        wait_until_queued(client, 4)
        generator.open()
        assert [future.result().status_code for future in (first, *waiting)] == [200] * 5
        assert [len(batch) for batch in generator.batches[-2:]] == [1, 4]
        assert metric(client, SHARED) - before == 1
        alone = [post(server, body).json()["data"] for body in bodies]
        assert [future.result().json()["data"] for future in waiting] == alone


@SERVED_BY_BOTH
def test_a_stream_names_the_style_of_each_image(client: httpx.Client, styles: list[str]) -> None:
    events = events_of(client, seed=5, styles_each=[*styles, None], partial_images=1)
    done = sorted(
        (event for event in events if event["type"] == COMPLETED), key=lambda event: int(event["image_index"])
    )
    plain = generate(client, seed=5, styles_each=[*styles, None]).json()
    assert [event.get("style") for event in done] == [image.get("style") for image in plain["data"]]
    assert [event.get("style", {}).get("id") for event in done] == [*styles, None]
    files = [base64.b64decode(event["b64_json"]) for event in done]
    assert files == images_of(generate(client, seed=5, styles_each=[*styles, None]))


@pytest.mark.parametrize(
    ("fields", "status", "param", "part_of_message"),
    [
        ({"styles_each": []}, 400, "styles_each", "at least 1"),
        ({"styles_each": [None] * 11}, 400, "styles_each", "at most 10"),
        ({"styles_each": [None] * 4, "n": 3}, 400, "n", "12; one request draws at most 10"),
        ({"styles_each": [None], "style": "sty_x"}, 400, "styles_each", "exclude each other"),
        ({"styles_each": [7]}, 400, "styles_each.0", "must be a style ID"),
        ({"styles_each": "sty_x"}, 400, "styles_each", "list"),
        ({"styles_each": [None, "sty_nobody"]}, 404, "styles_each.1", "sty_nobody"),
    ],
)
@SERVED_BY_BOTH
def test_what_cannot_be_drawn_is_refused_with_a_sentence(
    client: httpx.Client, fields: dict[str, Any], status: int, param: str, part_of_message: str
) -> None:
    refused = generate(client, **fields)
    assert refused.status_code == status
    assert refused.json()["error"]["param"] == param
    assert part_of_message in refused.json()["error"]["message"]


@SERVED_BY_BOTH
def test_one_style_of_each_may_be_a_raw_image_and_several_may_not(
    client: httpx.Client, styles: list[str]
) -> None:
    raw = generate(client, accept="image/png", seed=5, styles_each=styles[:1])
    assert raw.content == images_of(generate(client, seed=5, style=styles[0]))[0]
    refused = generate(client, accept="image/png", styles_each=styles)
    assert refused.status_code == 400
    assert client.post(GENERATIONS, json={"prompt": "a star"}).status_code == 200
