"""The words that a style adds to each prompt that is drawn in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.busy_server import metric
from tests.support.generations import GENERATIONS, error_of, events_of, generate, images_of
from tests.support.server import ready_server
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

SUFFIX = "in watercolor painting style"
SHARED = "atelier_content_paths_shared_total"


@pytest.fixture
def plain(client: httpx.Client) -> str:
    """A style without a suffix."""
    return str(upload(client, picture(95)).json()["id"])


@pytest.fixture
def style(client: httpx.Client) -> str:
    created = upload(client, picture(96), prompt_suffix=f" {SUFFIX} ").json()
    assert created["prompt_suffix"] == SUFFIX
    return str(created["id"])


@pytest.fixture
def other(client: httpx.Client) -> str:
    return str(upload(client, picture(97), prompt_suffix="as a woodcut").json()["id"])


def drawn(client: httpx.Client, prompt: str = "a star", **fields: Any) -> bytes:
    return images_of(generate(client, prompt=prompt, seed=5, **fields))[0]


def without_suffix(client: httpx.Client, style: str) -> dict[str, Any]:
    """The style by its code, which holds no words."""
    return {"id": client.get(f"/v1/styles/{style}").json()["code"]}


def test_a_suffix_goes_to_the_end_of_the_prompt_and_the_answer_says_so(
    client: httpx.Client, style: str
) -> None:
    coded = without_suffix(client, style)
    assert drawn(client, style=style) == drawn(client, f"a star, {SUFFIX}", style=coded)
    assert drawn(client, style=style) != drawn(client, style=coded)
    answer = generate(client, seed=5, style=style).json()
    assert answer["data"][0]["revised_prompt"] == f"a star, {SUFFIX}"
    assert "revised_prompt" not in generate(client, seed=5, style=coded).json()["data"][0]
    for event in events_of(client, seed=5, style=style, partial_images=1):
        assert event["revised_prompt"] == f"a star, {SUFFIX}"
    assert drawn(client, model=f"tiny@{style}") == drawn(client, style=style)


def test_strength_0_is_the_plain_model_without_the_words(client: httpx.Client, style: str) -> None:
    assert drawn(client, style={"id": style, "strength": 0}) == drawn(client)


def test_a_suffix_is_kept_shown_changed_and_removed(client: httpx.Client, style: str, plain: str) -> None:
    shown = [client.get(f"/v1/styles/{id}").json()["prompt_suffix"] for id in (style, plain)]
    assert shown == [SUFFIX, None]
    first = drawn(client, style=style)
    changed = client.patch(f"/v1/styles/{style}", json={"prompt_suffix": "as a woodcut"}).json()
    assert changed["prompt_suffix"] == "as a woodcut"
    assert generate(client, style=style).json()["data"][0]["revised_prompt"] == "a star, as a woodcut"
    assert (
        client.patch(f"/v1/styles/{style}", json={"name": "reeds"}).json()["prompt_suffix"] == "as a woodcut"
    )
    removed = client.patch(f"/v1/styles/{style}", json={"prompt_suffix": None}).json()
    assert removed["prompt_suffix"] is None
    assert drawn(client, style=style) == drawn(client, style=without_suffix(client, style)) != first
    listed = {style["id"]: style["prompt_suffix"] for style in client.get("/v1/styles").json()["data"]}
    assert listed[style] is None
    client.patch(f"/v1/styles/{style}", json={"prompt_suffix": SUFFIX})


def test_a_style_of_words_or_of_a_code_may_have_a_suffix(client: httpx.Client, plain: str) -> None:
    code = without_suffix(client, plain)["id"]
    for source in ({"text": "ukiyo-e"}, {"code": code}):
        created = client.post("/v1/styles", json={**source, "prompt_suffix": "as a woodcut"}).json()
        assert created["prompt_suffix"] == "as a woodcut"
        answer = generate(client, style=created["id"]).json()
        assert answer["data"][0]["revised_prompt"] == "a star, as a woodcut"


@pytest.mark.parametrize("suffix", ["", "  ", "x" * 501])
def test_a_suffix_that_is_blank_or_too_long_is_refused(client: httpx.Client, plain: str, suffix: str) -> None:
    assert error_of(upload(client, picture(98), prompt_suffix=suffix), 400)["param"] == "prompt_suffix"
    for refused in (
        client.post("/v1/styles", json={"text": "ukiyo-e", "prompt_suffix": suffix}),
        client.patch(f"/v1/styles/{plain}", json={"prompt_suffix": suffix}),
    ):
        assert error_of(refused, 400)["param"] == "prompt_suffix"


def test_each_style_of_several_adds_its_own_words_and_only_equal_prompts_share_a_content_path(
    client: httpx.Client, style: str, other: str, plain: str
) -> None:
    before = metric(client, SHARED)
    answer = generate(client, seed=5, styles_each=[None, style, other, plain, style])
    revised = [image.get("revised_prompt") for image in answer.json()["data"]]
    assert revised == [None, f"a star, {SUFFIX}", "a star, as a woodcut", None, f"a star, {SUFFIX}"]
    # Three prompts: three content paths for five images.
    assert metric(client, SHARED) - before == 2
    alone = [drawn(client), *(drawn(client, style=id) for id in (style, other, plain, style))]
    assert images_of(answer) == alone


def test_a_mixture_adds_the_words_of_the_styles_that_it_leads_to(
    client: httpx.Client, style: str, other: str, plain: str
) -> None:
    def revised(*terms: tuple[str, float]) -> str | None:
        styles = [{"id": id, "weight": weight} for id, weight in terms]
        image: dict[str, str] = generate(client, styles=styles).json()["data"][0]
        return image.get("revised_prompt")

    assert revised((style, 1), (other, 2)) == f"a star, {SUFFIX}, as a woodcut"
    assert revised((style, 2), (other, -1)) == f"a star, {SUFFIX}"
    assert revised((style, 1), (style, 1)) == f"a star, {SUFFIX}"
    assert revised((plain, 1), (other, 0)) is None


def test_a_style_that_exists_keeps_its_suffix_and_keeps_it_over_a_restart(tmp_path: Path) -> None:
    with ready_server(tmp_path, tiny_generator()) as (_, client):
        style = upload(client, picture(96), prompt_suffix=SUFFIX).json()["id"]
        again = upload(client, picture(96), prompt_suffix="as a woodcut")
        assert (again.status_code, again.json()["prompt_suffix"]) == (200, SUFFIX)
    with ready_server(tmp_path, tiny_generator()) as (_, client):
        response = client.post(GENERATIONS, json={"prompt": "a star", "style": style})
        assert response.json()["data"][0]["revised_prompt"] == f"a star, {SUFFIX}"
