"""The Accept header chooses between JSON and the image itself."""

from __future__ import annotations

import pytest

from service.errors import InvalidRequest, NotAcceptable
from service.http.content_negotiation import Form, wanted_form
from service.http.schemas.images import GenerationBody
from service.media.images import OutputFormat


def body(**fields: object) -> GenerationBody:
    return GenerationBody.model_validate({"prompt": "a star", **fields})


@pytest.mark.parametrize(
    ("accept", "raw"),
    [
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("image/*", OutputFormat.PNG),
        ("image/*, application/json", OutputFormat.PNG),
        ("application/json, image/*", None),
        ("image/gif, image/*;q=0.5", OutputFormat.PNG),
        ("image/png;q=0, image/*", OutputFormat.JPEG),
        ("application/json;q=0, */*", OutputFormat.PNG),
        ("text/html, */*;q=0.8", None),
        ("application/*", None),
        ("image/png", OutputFormat.PNG),
        ("IMAGE/WebP", OutputFormat.WEBP),
        ("image/avif, image/jpeg, */*;q=0.5", OutputFormat.JPEG),
        ("image/png;q=0.5, application/json", None),
        ("application/json;q=0.2, image/png;q=0.9", OutputFormat.PNG),
        ("image/png;q=0, image/webp;q=0.1", OutputFormat.WEBP),
    ],
)
def test_the_most_wanted_form_we_have_is_taken(accept: str, raw: OutputFormat | None) -> None:
    form = wanted_form(accept, body())
    assert form == Form(raw or OutputFormat.PNG, is_raw=raw is not None)


@pytest.mark.parametrize(
    "accept", ["image/gif", "text/html", "application/json;q=0", "image/png;q=nonsense", "*/*;q=0"]
)
def test_a_header_that_allows_nothing_that_there_is_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="allows none of what there is: application/json, image/png"):
        wanted_form(accept, body())


def test_a_stream_may_be_asked_for_as_events() -> None:
    assert not wanted_form("text/event-stream", body(stream=True)).is_raw
    with pytest.raises(NotAcceptable):
        wanted_form("text/event-stream", body())
    with pytest.raises(InvalidRequest, match="made of events"):
        wanted_form("image/*", body(stream=True))


def test_any_image_is_one_of_the_output_format() -> None:
    assert wanted_form("image/*", body(output_format="webp")) == Form(OutputFormat.WEBP, is_raw=True)


def test_json_holds_the_output_format_of_the_body() -> None:
    assert wanted_form("*/*", body(output_format="webp")) == Form(OutputFormat.WEBP, is_raw=False)


def test_several_images_are_json_when_the_header_allows_it() -> None:
    assert not wanted_form("image/png, */*;q=0.1", body(n=2)).is_raw
    with pytest.raises(InvalidRequest, match="n must be 1"):
        wanted_form("image/png", body(n=2))


def test_a_header_and_a_body_that_disagree_are_refused() -> None:
    assert wanted_form("image/png", body(output_format="png")).is_raw
    with pytest.raises(InvalidRequest, match="leave one of them out"):
        wanted_form("image/png", body(output_format="jpeg"))
