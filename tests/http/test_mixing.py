"""Several styles in one image, by weight."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import openai
import pytest

from tests.support.backbones import SERVED_BY_BOTH
from tests.support.generations import events_of, generate, images_of
from tests.support.server import Running
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow


@pytest.fixture
def ids(client: httpx.Client) -> list[str]:
    return [upload(client, picture(seed)).json()["id"] for seed in (200, 201)]


def mixed(client: httpx.Client, ids: list[str], weights: list[float], **fields: Any) -> httpx.Response:
    styles = [{"id": id, "weight": weight} for id, weight in zip(ids, weights, strict=True)]
    return generate(client, styles=styles, seed=1, **fields)


@SERVED_BY_BOTH
def test_a_mixture_is_between_its_styles_and_each_is_its_own_end(
    client: httpx.Client, ids: list[str]
) -> None:
    ends = [images_of(generate(client, style=id, seed=1)) for id in ids]
    assert images_of(mixed(client, ids, [1, 0])) == ends[0]
    assert images_of(mixed(client, ids, [0, 1])) == ends[1]
    assert images_of(mixed(client, ids, [1, 1])) not in ends


@SERVED_BY_BOTH
def test_weights_are_relative_to_their_sum(client: httpx.Client, ids: list[str]) -> None:
    first = mixed(client, ids, [3, 1])
    assert images_of(first) == images_of(mixed(client, ids, [0.75, 0.25]))
    answer = first.json()
    assert answer["styles"] == [{"id": ids[0], "weight": 0.75}, {"id": ids[1], "weight": 0.25}]
    assert (answer["strength"], answer["alpha"]) == (1.0, 1.0)
    assert "style" not in answer
    alone = generate(client, styles=[{"id": ids[0]}], seed=1)
    assert images_of(alone) == images_of(generate(client, style=ids[0], seed=1))


@SERVED_BY_BOTH
def test_a_negative_weight_leads_away_from_a_style(client: httpx.Client, ids: list[str]) -> None:
    away = mixed(client, ids, [2, -1])
    assert away.json()["styles"][1]["weight"] == -1
    assert images_of(away) not in [images_of(generate(client, style=id, seed=1)) for id in ids]


@SERVED_BY_BOTH
def test_strength_and_alpha_are_those_of_the_mixture(client: httpx.Client, ids: list[str]) -> None:
    plain = images_of(generate(client, seed=1))
    assert images_of(mixed(client, ids, [1, 1], strength=0)) == plain
    steep = mixed(client, ids, [1, 1], alpha=5.0, strength=0.5)
    assert (steep.json()["strength"], steep.json()["alpha"]) == (0.5, 5.0)
    assert images_of(steep) not in (plain, images_of(mixed(client, ids, [1, 1])))


@SERVED_BY_BOTH
def test_codes_and_ids_mix(client: httpx.Client, ids: list[str]) -> None:
    code = client.get(f"/v1/styles/{ids[1]}").json()["code"]
    assert images_of(mixed(client, [ids[0], code], [1, 1])) == images_of(mixed(client, ids, [1, 1]))


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], [1, -2], [1, -0.9], [-1, -1]])
@SERVED_BY_BOTH
def test_weights_without_a_positive_sum_are_refused(
    client: httpx.Client, ids: list[str], weights: list[float]
) -> None:
    refused = mixed(client, ids, weights)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "styles"
    assert "relative to their sum" in refused.json()["error"]["message"]


@SERVED_BY_BOTH
def test_weights_of_up_to_ten_times_their_sum_are_taken(client: httpx.Client, ids: list[str]) -> None:
    answer = mixed(client, ids, [10, -9]).json()
    assert [style["weight"] for style in answer["styles"]] == [10, -9]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"styles": []}, "styles"),
        ({"styles": [{"id": "sty_x"}] * 11}, "styles"),
        ({"styles": [{"id": "sty_x", "weight": 11}]}, "styles.0.weight"),
        ({"styles": [{"id": "sty_x", "wieght": 1}]}, "styles.0.wieght"),
        ({"styles": [{"weight": 1}]}, "styles.0.id"),
        ({"styles": ["sty_x"]}, "styles.0"),
        ({"styles": [{"id": "sty_x"}], "style": "sty_x"}, "styles"),
        ({"style": "sty_x", "strength": 0.5}, "strength"),
        ({"alpha": 0.5}, "alpha"),
        ({"styles": [{"id": "sty_x"}], "strength": 2}, "strength"),
    ],
)
@SERVED_BY_BOTH
def test_a_wrong_mixture_is_refused_by_name(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    refused = generate(client, **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


@SERVED_BY_BOTH
def test_a_missing_style_of_a_mixture_is_named_by_its_index(client: httpx.Client, ids: list[str]) -> None:
    refused = mixed(client, [ids[0], "sty_" + "a" * 26], [1, 1])
    assert refused.status_code == 404
    assert refused.json()["error"]["param"] == "styles.1.id"


@SERVED_BY_BOTH
def test_the_openai_package_mixes_by_extra_body(
    server: Running, client: httpx.Client, ids: list[str]
) -> None:
    styles = [{"id": ids[0], "weight": 2}, {"id": ids[1], "weight": 1}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as sdk:
        answer = sdk.images.generate(prompt="a star", extra_body={"styles": styles, "seed": 1})
    assert answer.data is not None
    drawn = base64.b64decode(answer.data[0].b64_json or "")
    assert [drawn] == images_of(mixed(client, ids, [2, 1]))


@SERVED_BY_BOTH
def test_a_streamed_mixture_says_what_the_plain_answer_says(client: httpx.Client, ids: list[str]) -> None:
    mixture: dict[str, Any] = {
        "styles": [{"id": id, "weight": weight} for id, weight in zip(ids, (2, 1), strict=True)],
        "strength": 0.5,
    }
    plain = generate(client, seed=1, **mixture).json()
    events = events_of(client, seed=1, partial_images=1, **mixture)
    assert len(events) == 2
    for event in events:
        for field in ("styles", "strength", "alpha"):
            assert event[field] == plain[field]
        assert "style" not in event
    assert [event["b64_json"] for event in events][-1] == plain["data"][0]["b64_json"]


@SERVED_BY_BOTH
def test_a_stream_in_one_style_or_none_says_nothing_of_mixtures(client: httpx.Client, ids: list[str]) -> None:
    styled = generate(client, seed=1, style=ids[0]).json()["style"]
    (event,) = events_of(client, seed=1, style=ids[0])
    (plain,) = events_of(client, seed=1)
    assert event["style"] == styled
    assert "style" not in plain
    for answer in (event, plain):
        assert not {"styles", "strength", "alpha"} & answer.keys()
