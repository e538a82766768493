"""Styles over HTTP: upload once, then list, look at and delete by ID."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.support.backbones import SERVED_BY_BOTH
from tests.support.generations import error_of
from tests.support.uploads import is_image, picture, upload, upload_several


@SERVED_BY_BOTH
def test_a_new_picture_becomes_a_style_with_a_location(client: httpx.Client) -> None:
    created = upload(client, picture(1), name="  Blocks ")
    assert created.status_code == 201
    style = created.json()
    assert style["id"].startswith("sty_")
    assert style["object"] == "style"
    assert style["name"] == "Blocks"
    assert (style["num_images"], style["image_width"], style["image_height"]) == (1, 96, 64)
    assert created.headers["Location"] == f"/v1/styles/{style['id']}"
    assert client.get(created.headers["Location"]).json() == style


@SERVED_BY_BOTH
def test_the_same_picture_again_has_the_same_id_and_status_200(client: httpx.Client) -> None:
    first = upload(client, picture(2), name="first")
    again = upload(client, picture(2, format="GIF"))
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]


@SERVED_BY_BOTH
def test_the_stored_picture_can_be_seen(client: httpx.Client) -> None:
    style = upload(client, picture(3)).json()
    image = client.get(f"/v1/styles/{style['id']}/image")
    assert image.headers["Content-Type"] == "image/webp"
    assert is_image(image.content, "WEBP", (96, 64))


@SERVED_BY_BOTH
def test_a_deleted_style_is_not_found_and_can_be_uploaded_again(client: httpx.Client) -> None:
    style = upload(client, picture(4)).json()
    path = f"/v1/styles/{style['id']}"
    deleted = client.delete(path)
    assert deleted.json() == {"id": style["id"], "object": "style.deleted", "deleted": True}
    for gone in (client.get(path), client.get(f"{path}/image"), client.delete(path)):
        assert gone.status_code == 404
        assert gone.json()["error"]["code"] == "style_not_found"
    assert upload(client, picture(4)).status_code == 201


@SERVED_BY_BOTH
def test_the_list_is_paged_by_cursor(client: httpx.Client) -> None:
    for style in client.get("/v1/styles", params={"limit": 100}).json()["data"]:
        client.delete(f"/v1/styles/{style['id']}")
    empty: dict[str, object] = {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    assert client.get("/v1/styles").json() == empty
    ids = [upload(client, picture(seed)).json()["id"] for seed in (10, 11, 12)]
    first = client.get("/v1/styles", params={"limit": 2, "order": "asc"}).json()
    rest = client.get("/v1/styles", params={"limit": 2, "order": "asc", "after": first["last_id"]}).json()
    assert first["has_more"]
    assert not rest["has_more"]
    in_order = [style["id"] for style in first["data"] + rest["data"]]
    assert sorted(in_order) == sorted(ids)
    assert (first["first_id"], rest["last_id"]) == (in_order[0], in_order[-1])
    assert [style["id"] for style in client.get("/v1/styles").json()["data"]] == in_order[::-1]


@pytest.mark.parametrize(
    ("fields", "param", "part_of_message"),
    [
        ({"nme": "x"}, "nme", "Did you mean name?"),
        ({"colour": "x"}, "colour", "image, name, metadata"),
        ({"name": ""}, "name", "1 to 200 characters"),
        ({"name": "x" * 201}, "name", "1 to 200 characters"),
        ({"metadata": "x"}, "metadata", "as JSON"),
        ({"metadata": '{"a": 1}'}, "metadata", "as JSON"),
        ({"metadata": '{"a": "\\ud800"}'}, "metadata", "as JSON"),
        ({"metadata": "[" * 5000}, "metadata", "as JSON"),
    ],
)
@SERVED_BY_BOTH
def test_a_wrong_field_is_refused_by_name(
    client: httpx.Client, fields: dict[str, str], param: str, part_of_message: str
) -> None:
    refused = upload(client, picture(5), **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert part_of_message in refused.json()["error"]["message"]


@SERVED_BY_BOTH
def test_a_form_without_a_picture_or_with_too_many_is_refused(client: httpx.Client) -> None:
    none = client.post("/v1/styles", files={"name": (None, "x")})
    text = client.post("/v1/styles", files={"image": (None, "x")})
    both = client.post("/v1/styles", files=[("image", ("a", picture(6))), ("image", (None, "x"))])
    eleven = upload_several(client, [picture(seed) for seed in range(11)])
    assert "up to 10 images" in eleven.json()["error"]["message"]
    for refused in (none, text, both, eleven):
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "image"


@SERVED_BY_BOTH
def test_what_is_not_a_picture_is_refused_and_leaves_nothing(client: httpx.Client) -> None:
    before = client.get("/v1/styles").json()
    broken = upload(client, picture(8)[:100])
    text = upload(client, b"<svg/>")
    empty = upload(client, b"")
    assert (broken.status_code, text.status_code, empty.status_code) == (422, 415, 422)
    assert client.get("/v1/styles").json() == before


@pytest.mark.parametrize("character", ["\0", "\x1b", "\r", "\n", "\x85", "\u2028", "\u202e", "\u2066"])
def test_names_and_metadata_with_characters_that_nobody_sees_are_refused(
    client: httpx.Client, character: str
) -> None:
    style = upload(client, picture(70)).json()["id"]
    code, bad = f"U+{ord(character):04X}", f"in{character}visible"
    breaks = character in "\r\n"
    for field, value in (
        ("name", bad),
        ("prompt_suffix", bad),
        ("metadata", {bad: "x"}),
        ("metadata", {"x": bad}),
    ):
        in_form = value if isinstance(value, str) else json.dumps(value)
        answers = [
            client.patch(f"/v1/styles/{style}", json={field: value}),
            client.post("/v1/styles", json={"text": "ink", field: value}),
            client.post("/v1/styles", files={"image": picture(71)}, data={field: in_form}),
        ]
        if breaks and value == {"x": bad}:  # a text of several lines
            assert all(answer.is_success for answer in answers)
            continue
        for answer in answers:
            error = error_of(answer, 400)
            assert (error["code"], code in error["message"]) == ("invalid_value", True)
    family = "\U0001f469\u200d\U0001f469 \u05d0\u200f!"  # joined, and right to left: letters as others
    assert client.patch(f"/v1/styles/{style}", json={"name": family}).json()["name"] == family
