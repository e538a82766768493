"""Images over HTTP: plain and styled, as JSON and raw, each with the seed that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.support.generations import HTTP_STAGES, generate, images_of, stages_of, timing_of
from tests.support.server import serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import is_image, picture, upload

SIZE = (64, 64)


def test_a_prompt_alone_gives_one_png_and_its_seed(client: httpx.Client) -> None:
    response = generate(client)
    answer: dict[str, Any] = response.json()
    (content,) = images_of(response)
    assert is_image(content, "PNG", SIZE)
    assert 0 <= answer["data"][0]["seed"] < 2**32
    assert answer["created"] > 0
    assert (answer["size"], answer["output_format"]) == ("64x64", "png")
    assert answer["model"] == client.get("/v1/models").json()["data"][0]["id"]
    assert "style" not in answer
    assert images_of(generate(client, seed=answer["data"][0]["seed"])) == [content]


def test_seeds_are_drawn_anew_when_left_out(client: httpx.Client) -> None:
    seeds = {generate(client).json()["data"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_image_i_of_several_is_the_one_of_seed_plus_i(client: httpx.Client) -> None:
    several = generate(client, n=3, seed=2**32 - 2)
    assert [image["seed"] for image in several.json()["data"]] == [2**32 - 2, 2**32 - 1, 0]
    alone = [images_of(generate(client, seed=seed))[0] for seed in (2**32 - 2, 2**32 - 1, 0)]
    assert images_of(several) == alone
    assert len(set(alone)) == 3


def test_a_style_changes_the_image_and_is_repeated_in_the_answer(client: httpx.Client) -> None:
    style = upload(client, picture(20)).json()["id"]
    plain = images_of(generate(client, seed=1))
    styled = generate(client, seed=1, style=style)
    assert images_of(styled) != plain
    repeated = styled.json()["style"]
    assert (repeated["id"], repeated["strength"]) == (style, 1.0)
    assert repeated["alpha"] > 0
    assert images_of(generate(client, seed=1, style=repeated)) == images_of(styled)
    assert images_of(generate(client, seed=1, style={"id": style, "strength": 0})) == plain


def test_only_the_first_use_of_a_style_extracts_its_feature(client: httpx.Client) -> None:
    def hits() -> float:
        lines = client.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith('atelier_style_features_total{result="hit"}')]
        return float(line.split()[1])

    style = upload(client, picture(21)).json()["id"]
    generate(client, style=style)
    before = hits()
    generate(client, style=style)
    assert hits() == before + 1


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_an_image_accept_gives_the_bytes_and_the_seed_in_a_header(client: httpx.Client, format: str) -> None:
    raw = generate(client, accept=f"image/{format}", seed=5)
    assert raw.headers["Content-Type"] == f"image/{format}"
    assert raw.headers["X-Seed"] == "5"
    assert is_image(raw.content, format.upper(), SIZE)
    assert images_of(generate(client, seed=5, output_format=format)) == [raw.content]


def test_a_prompt_that_had_no_effect_is_warned_of_in_both_forms(client: httpx.Client) -> None:
    (warning,) = generate(client, prompt="xyzzy").json()["warnings"]
    assert "names nothing" in warning
    assert generate(client, accept="image/png", prompt="xyzzy").headers["X-Warnings"] == warning
    assert "warnings" not in generate(client).json()
    assert "X-Warnings" not in generate(client, accept="image/png").headers


def test_compression_is_the_quality_of_a_jpeg(client: httpx.Client) -> None:
    sizes = [
        len(images_of(generate(client, seed=5, output_format="jpeg", output_compression=quality))[0])
        for quality in (10, 95)
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("fields", [{"negative_prompt": "a circle"}, {"guidance": 1.5}, {"prompt": "a mug"}])
def test_what_steers_the_model_changes_the_image(client: httpx.Client, fields: dict[str, Any]) -> None:
    assert images_of(generate(client, seed=6, **fields)) != images_of(generate(client, seed=6))


def test_what_openai_clients_send_by_habit_is_accepted(client: httpx.Client) -> None:
    habits = {"quality": "high", "background": "auto", "moderation": "auto", "response_format": "b64_json"}
    plain = images_of(generate(client, seed=7))
    assert images_of(generate(client, seed=7, user="someone", size="auto", stream=False, **habits)) == plain


def test_every_native_size_is_drawn_at_that_size(client: httpx.Client) -> None:
    for size in client.get("/v1/models").json()["data"][0]["sizes"]:
        response = generate(client, size=size)
        assert response.json()["size"] == size
        assert is_image(images_of(response)[0], "PNG", tuple(map(int, size.split("x"))))  # type: ignore[arg-type]


def test_a_batch_is_counted_by_stage_and_step_once(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path), tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        assert len(images_of(generate(client, n=3))) == 3
        lines = client.get("/metrics").text.splitlines()
    for once in (
        'atelier_stage_duration_seconds_count{stage="text"} 1.0',
        'atelier_stage_duration_seconds_count{stage="transformer"} 1.0',
        'atelier_stage_duration_seconds_count{stage="decode"} 1.0',
        'atelier_step_duration_seconds_count{step="1"} 1.0',
        'atelier_step_duration_seconds_count{step="6"} 1.0',
        "atelier_batch_rows_sum 6.0",  # three content paths, with and without the prompt
        'atelier_stage_duration_seconds_count{stage="encode"} 3.0',
        "atelier_images_total 3.0",
    ):
        assert once in lines


def test_the_stages_of_server_timing_explain_the_time_of_the_request(client: httpx.Client) -> None:
    style = upload(client, picture(22)).json()["id"]
    stages, steps, total = stages_of(generate(client, style=style, n=10, seed=1))
    assert set(stages) == {"style", "queue", "text", "transformer", "decode", "encode"}
    assert set(steps) == {f"step{step}" for step in range(1, 7)}
    assert all(milliseconds >= 0 for milliseconds in (*stages.values(), *steps.values()))
    assert 0.95 * total <= sum(stages.values()) <= total + 0.1
    assert 0 < sum(steps.values()) <= stages["transformer"] + 0.1


def test_a_response_that_needed_no_model_says_its_time_alone(client: httpx.Client) -> None:
    stages, steps, total = stages_of(client.get("/v1/models"))
    assert (stages, steps) == ({}, {})
    assert total > 0


def test_every_part_of_a_request_belongs_to_a_named_stage(client: httpx.Client) -> None:
    style = upload(client, picture(22)).json()["id"]
    for response in (generate(client, style=style), generate(client, n=3), client.get("/v1/models")):
        stages, _, total = timing_of(response)
        assert set(HTTP_STAGES) <= set(stages)
        assert sum(stages.values()) == pytest.approx(total, abs=0.1)  # each is rounded to hundredths
        assert stages["receive"] > 0


def test_tokens_of_all_images_are_counted(client: httpx.Client) -> None:
    one, three = generate(client).json()["usage"], generate(client, n=3).json()["usage"]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert three[name] == 3 * one[name]
    assert one["output_tokens"] == 130
