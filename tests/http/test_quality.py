"""`quality` over HTTP: what it takes, what the answers tell of it, and that nobody else notices."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from service.model.engine.generator import Generator
from service.model.engine.quality import Qualities, Shortcuts
from service.settings import Settings
from tests.support.busy_server import post, wait_until_queued
from tests.support.gated_generator import GatedGenerator
from tests.support.generations import COMPLETED, GENERATIONS, PARTIAL, events_of, file_of, generate, images_of
from tests.support.openai_sdk import files_of, sdk_of
from tests.support.server import Running, serving
from tests.support.tiny import tiny_config, tiny_infinity
from tests.support.uploads import is_image, picture, upload

pytestmark = pytest.mark.slow

QUALITIES = Qualities(medium=Shortcuts(guidance_until=4), low=Shortcuts(guidance_until=3, stop_after=5))


def quick_generator() -> Generator:
    return Generator(tiny_infinity(tiny_config(quality=QUALITIES)))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A ready server whose model takes shortcuts at medium and low quality."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("quick"), metadata="none")
    with serving(settings, quick_generator()) as running:
        running.wait_until_settled()
        yield running


@pytest.fixture
def caller(quick: Running) -> Iterator[httpx.Client]:
    with quick.client() as client:
        yield client


def test_high_and_auto_are_exact_and_the_others_are_images_of_their_own(
    caller: httpx.Client, client: httpx.Client
) -> None:
    style = upload(caller, picture(80)).json()["id"]
    upload(client, picture(80))
    exact = images_of(generate(client, seed=3, style=style))
    drawn = {
        quality: images_of(generate(caller, seed=3, style=style, quality=quality))
        for quality in ("auto", "high", "medium", "low")
    }
    assert drawn["auto"] == drawn["high"] == exact
    assert len({file for files in drawn.values() for file in files}) == 3


@pytest.mark.parametrize("quality", ["high", "medium", "low"])
def test_the_openai_client_chooses_a_quality_and_sees_it_in_the_response(
    quick: Running, quality: Literal["high", "medium", "low"]
) -> None:
    with sdk_of(quick) as sdk:
        answer, again = (
            sdk.images.generate(prompt="a star", quality=quality, extra_body={"seed": 3}) for _ in range(2)
        )
        with sdk.images.generate(
            prompt="a star", quality=quality, stream=True, partial_images=1, extra_body={"seed": 3}
        ) as stream:
            *partials, completed = stream
    assert answer.quality == quality
    assert files_of(answer) == files_of(again)
    assert is_image(files_of(answer)[0], "PNG", (64, 64))
    assert completed.type == "image_generation.completed"
    assert [event.quality for event in (*partials, completed)] == [quality] * 2
    assert base64.b64decode(completed.b64_json) == files_of(answer)[0]


def test_a_raw_image_carries_its_quality_in_a_header(caller: httpx.Client) -> None:
    assert generate(caller, accept="image/png", quality="low").headers["X-Quality"] == "low"
    assert generate(caller, accept="image/png").headers["X-Quality"] == "high"


def test_a_model_without_shortcuts_draws_exactly_and_says_so(client: httpx.Client) -> None:
    low = generate(client, seed=3, quality="low")
    assert low.json()["quality"] == "high"
    assert images_of(low) == images_of(generate(client, seed=3))


def test_the_model_lists_what_each_quality_leaves_out(caller: httpx.Client) -> None:
    assert caller.get("/v1/models").json()["data"][0]["qualities"] == {
        "high": "exact",
        "medium": "guidance until step 4",
        "low": "guidance until step 3, stop after step 5",
    }


def test_a_stream_of_an_image_that_stops_early_counts_its_own_steps(caller: httpx.Client) -> None:
    style = upload(caller, picture(81)).json()["id"]
    asked: dict[str, Any] = {"seed": 3, "style": style, "quality": "low"}
    *partials, completed = events_of(caller, partial_images=2, **asked)
    assert [event["type"] for event in (*partials, completed)] == [PARTIAL, PARTIAL, COMPLETED]
    assert {event["num_steps"] for event in (*partials, completed)} == {5}
    assert [event["step"] for event in partials] == [3, 4]
    assert completed["step"] == 5
    assert completed["usage"]["output_tokens"] == 1 + 4 + 9 + 16 + 36
    assert is_image(file_of(completed), "PNG", (64, 64))
    assert [file_of(completed)] == images_of(generate(caller, **asked))


def test_images_of_different_quality_meet_in_no_batch_and_change_nothing(tmp_path: Path) -> None:
    generator = GatedGenerator(quick_generator())
    generator.open()
    with serving(Settings(data_dir=tmp_path), generator) as running, running.client() as client:
        running.wait_until_settled()
        bodies = [
            {"prompt": "a star", "seed": seed, "quality": quality}
            for seed in (1, 2)
            for quality in ("low", "high", "medium", "auto")
        ]
        alone = [images_of(client.post(GENERATIONS, json=body)) for body in bodies]
        generator.close()
        generator.batches.clear()
        with ThreadPoolExecutor(len(bodies)) as pool:
            asked = [pool.submit(post, running, bodies[0])]
            generator.wait_for_batch()
            asked += [pool.submit(post, running, body) for body in bodies[1:]]
            wait_until_queued(client, len(bodies) - 1)
            generator.open()
            together = [images_of(future.result()) for future in asked]
    assert together == alone
    keys = [{spec.batch_key for spec in batch} for batch in generator.batches]
    assert all(len(key) == 1 for key in keys)
    assert sorted(map(len, generator.batches)) == [1, 1, 2, 4]
