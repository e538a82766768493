"""POST /v1/images/edits: the openai package, other clients' forms, JSON, masks, regions, and bad input."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.generations import draw, error_of, images_of
from tests.support.openai_sdk import files_of, sdk_of
from tests.support.server import Running
from tests.support.uploads import is_image, picture, upload

pytestmark = pytest.mark.slow

EDITS = "/v1/images/edits"
PHOTO = picture(3, size=(96, 64))
CELL = 8  # pixels on a side of what one token covers


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mask_of_left(width: int = 96, height: int = 64, edited: int = 48) -> bytes:
    """Transparent in the first columns."""
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[:, edited:, 3] = 255
    return png(pixels)


MASK = mask_of_left()


def pixels_of(file: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(np.int64)


def encoded(file: bytes) -> str:
    return base64.b64encode(file).decode()


def edit(client: httpx.Client, **fields: object) -> httpx.Response:
    """As JSON, with a seed."""
    return client.post(EDITS, json={"image": encoded(PHOTO), "seed": 1} | fields)


@pytest.fixture(scope="module")
def sdk(server: Running) -> Iterator[openai.OpenAI]:
    with sdk_of(server) as sdk:
        yield sdk


@pytest.fixture(scope="module")
def style(server: Running) -> str:
    with server.client() as client:
        return str(upload(client, picture(40)).json()["id"])


def test_the_openai_package_edits_with_and_without_a_style_and_inside_a_mask(
    sdk: openai.OpenAI, client: httpx.Client, style: str
) -> None:
    seed: dict[str, Any] = {"seed": 1}
    plain = files_of(sdk.images.edit(image=PHOTO, prompt="a star", n=2, extra_body=seed))
    styled = sdk.images.edit(
        image=PHOTO, prompt="a star", extra_body=seed | {"style": {"id": style, "strength": 0.5}}
    )
    masked = files_of(sdk.images.edit(image=PHOTO, mask=MASK, prompt="a star", extra_body=seed))
    files = [*plain, *files_of(styled), *masked]
    assert len(set(files)) == 4
    assert all(is_image(file, "PNG", (96, 64)) for file in files)  # the size of the nearest aspect ratio
    assert styled.to_dict()["style"] == {"id": style, "strength": 0.5, "alpha": 1.0}
    assert images_of(edit(client, prompt="a star", n=2)) == plain
    assert images_of(edit(client, prompt="a star", style={"id": style, "strength": 0.5})) == files_of(styled)
    assert images_of(edit(client, prompt="a star", mask=encoded(MASK))) == masked


def test_the_openai_package_streams_an_edit_whose_last_event_is_the_image(
    sdk: openai.OpenAI, client: httpx.Client
) -> None:
    with sdk.images.edit(
        image=PHOTO, mask=MASK, prompt="a star", stream=True, partial_images=2, extra_body={"seed": 1}
    ) as stream:
        *partial, completed = stream
    assert [event.type for event in partial] == ["image_edit.partial_image"] * 2
    assert completed.type == "image_edit.completed"
    assert [base64.b64decode(completed.b64_json)] == images_of(
        edit(client, prompt="a star", mask=encoded(MASK))
    )


def test_outside_a_mask_every_pixel_is_the_pictures_own_beyond_the_feather(
    client: httpx.Client, style: str
) -> None:
    photo = pixels_of(PHOTO)
    for fields in ({"prompt": "a star"}, {"style": style}):
        (file,) = images_of(edit(client, mask=encoded(MASK), **fields))
        changed = np.abs(pixels_of(file) - photo).max(axis=(0, 2)) > 0
        assert changed[:40].all()
        assert not changed[48 + CELL :].any()


def test_further_images_are_the_style_and_the_answer_has_its_code(client: httpx.Client) -> None:
    several = client.post(
        EDITS,
        files=[("image[]", ("photo.png", PHOTO)), ("image[]", ("style.png", picture(40)))],
        data={"prompt": "a star", "seed": "1"},
    )
    code = several.json()["style"]["id"]
    assert code == upload(client, picture(40)).json()["code"]
    assert images_of(edit(client, prompt="a star", style=code)) == images_of(several)
    conflict = edit(client, prompt="a star", image=[encoded(PHOTO)] * 2, style=code)
    assert error_of(conflict, 400)["code"] == "conflicting_parameters"


def test_the_forms_of_other_clients_are_answered(client: httpx.Client) -> None:
    """Open WebUI, LiteLLM and n8n; an empty prompt field does not count."""
    common = {"model": "tiny", "prompt": "a star", "n": "1", "size": "512x512", "response_format": "b64_json"}
    answers = [
        client.post(EDITS, files={"image": ("a.png", PHOTO)}, data=common | {"background": "auto"}),
        client.post(EDITS, files=[("image[]", ("a.png", PHOTO))], data=common),
        client.post(
            EDITS,
            files=[("image[]", ("a.png", PHOTO)), ("mask", ("m.png", MASK))],
            data=common | {"quality": "medium", "input_fidelity": "high"},
        ),
    ]
    for answer in answers:
        assert all(is_image(file, "PNG", (512, 512)) for file in images_of(answer))
    assert [answer.json()["structure"] for answer in answers] == [0.5, 0.5, 0.5]  # half-way from 0 to 1
    # OpenAI's form in JSON.
    reference = {"image_url": f"data:image/png;base64,{encoded(PHOTO)}"}
    body = {"images": [reference], "prompt": "a star", "seed": 1}
    assert images_of(client.post(EDITS, json=body)) == images_of(edit(client, prompt="a star"))
    # In a form null is a word: of nothing where a field may be null, and of itself as a prompt.
    fields = {"prompt": "null", "n": "null", "user": "null", "seed": "1"}
    answer = client.post(EDITS, files={"image": ("a.png", PHOTO)}, data=fields)
    assert images_of(answer) == images_of(edit(client, prompt="null"))


def test_regions_have_a_style_each_in_a_form_and_in_json_and_leave_the_rest_plain(
    client: httpx.Client, style: str
) -> None:
    left = {"style": style, "box": [0, 0, 0.5, 1]}
    fields = {"prompt": "a star", "structure": 1.0}
    whole, none = (images_of(edit(client, style={"id": style, "strength": s}, **fields)) for s in (1.0, 0.0))
    halves = images_of(edit(client, regions=[left], **fields))
    assert halves not in (whole, none)
    masked = {"style": style, "mask": encoded(MASK)}
    assert images_of(edit(client, regions=[masked], **fields)) == halves
    everywhere = {"style": style, "box": [0, 0, 1, 1]}
    assert images_of(edit(client, regions=[everywhere], **fields)) == whole
    assert images_of(edit(client, regions=[everywhere, everywhere], **fields)) == whole  # they share
    form = {"seed": "1", "prompt": "a star", "structure": "1"}
    named = {"regions[0][style]": style, "regions[0][box]": "[0, 0, 0.5, 1]"}
    for given in (named, {"regions": json.dumps([left])}):
        answer = client.post(EDITS, files={"image": ("a.png", PHOTO)}, data=form | given)
        assert images_of(answer) == halves
        assert answer.json()["regions"] == [{"style": style, "strength": 1.0, "box": [0.0, 0.0, 0.5, 1.0]}]
    upload_of_mask = {"image": ("a.png", PHOTO), "regions[0][mask]": ("m.png", MASK)}
    answer = client.post(EDITS, files=upload_of_mask, data=form | {"regions[0][style]": style})
    assert images_of(answer) == halves


def test_generations_have_regions_and_styles_of_a_part_of_their_picture(
    client: httpx.Client, style: str
) -> None:
    images = [
        images_of(draw(client, **fields))[0]
        for fields in (
            {},
            {"style": style},
            {"style": {"id": style, "box": [0, 0, 0.4, 0.4]}},
            {"regions": [{"style": style, "box": [0, 0, 0.5, 1]}]},
            {"regions": [{"style": {"id": style, "box": [0, 0, 0.4, 0.4]}, "mask": encoded(MASK)}]},
        )
    ]
    assert len(set(images)) == len(images)
    assert images_of(draw(client, style={"id": style, "box": [0, 0, 1, 1]}))[0] != images[0]


def test_the_same_idempotency_key_gets_the_first_edit_again(client: httpx.Client) -> None:
    answers = [
        client.post(
            EDITS,
            files={"image": ("a.png", PHOTO)},
            data={"prompt": "a star"},
            headers={"Idempotency-Key": "edit-1"},
        )
        for _ in range(2)
    ]
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert answers[0].content == answers[1].content


OTHER_SIZE, NO_ALPHA, OPAQUE = mask_of_left(64, 64), picture(1, size=(96, 64)), mask_of_left(edited=0)
BOX = {"style": "sty_x", "box": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("fields", "status", "param", "sentence"),
    [
        (
            {"mask": encoded(OTHER_SIZE)},
            400,
            "mask",
            "mask is 64x64 and the picture 96x64: give both the same",
        ),
        ({"mask": encoded(NO_ALPHA)}, 400, "mask", "no alpha channel, whose transparent part says where"),
        ({"mask": encoded(OPAQUE)}, 400, "mask", "opaque everywhere, so there is nothing to edit"),
        ({"regions": [BOX] * 11}, 400, "regions", "regions has 11 regions; an image may have 1 to 8."),
        ({"regions": [BOX | {"box": [0, 0, 1.5, 1]}]}, 400, "regions.0.box", "from 0 to 1, with left below"),
        ({"regions": [BOX | {"box": [0.5, 0, 0.5, 1]}]}, 400, "regions.0.box", "such as \\[0, 0, 0.5, 1\\]"),
        ({"regions": [{"style": "sty_x"}]}, 400, "regions.0", "needs a box, .* or a mask: one of the two"),
        ({"style": {"id": "sty_x", "box": [0, 0]}}, 400, "style.box", "A box is"),
        ({"style": "sty_x", "regions": [BOX]}, 400, "regions", "exclude each other: give one"),
        ({"prompt": None}, 400, "prompt", "there is nothing to change: give one of them"),
        ({"prompt": None, "mask": encoded(MASK), "guidance": 3}, 400, "guidance", "goes with a prompt"),
        ({"structure": 1.5}, 400, "structure", "less than or equal to 1"),
        ({"structure": 0.5, "input_fidelity": "low"}, 400, "input_fidelity", "say the same: give one"),
        ({"image": "https://example.com/a.png"}, 400, "image.0", "not fetched from addresses: send the file"),
        ({"image": "not base64!"}, 400, "image.0", "this is not base64"),
        ({"image": [encoded(PHOTO)] * 17}, 400, "image", "An edit takes 1 to 16 images, not 17."),
        ({"image": encoded(b"%PDF-1.7")}, 415, "image", "Upload a PNG"),
    ],
)
def test_bad_input_is_told_what_would_be_right(
    client: httpx.Client, fields: dict[str, Any], status: int, param: str, sentence: str
) -> None:
    error = error_of(edit(client, **{"prompt": "a star"} | fields), status)
    assert error["param"] == param
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(error["message"])


def test_a_picture_of_too_many_pixels_and_a_field_that_cannot_be_read_are_refused(
    client: httpx.Client,
) -> None:
    buffer = io.BytesIO()
    Image.new("1", (8000, 6500)).save(buffer, "PNG")
    error = error_of(edit(client, prompt="a star", image=encoded(buffer.getvalue())), 413)
    assert error["message"].startswith("The picture is 8000x6500, 52.0 million pixels; at most 50 million")
    form = client.post(EDITS, files={"image": ("a.png", PHOTO)}, data={"style[id][": "sty_x"})
    assert "is written as style[id]" in error_of(form, 400)["message"]
    missing = client.post(EDITS, files={"mask": ("m.png", MASK)}, data={"prompt": "a star"})
    assert error_of(missing, 400)["message"] == "image is missing."
    text = client.post(EDITS, content=b"image=1", headers={"Content-Type": "text/plain"})
    assert "multipart/form-data, with files, or application/json" in error_of(text, 415)["message"]
