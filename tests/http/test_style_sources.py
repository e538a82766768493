"""Styles over HTTP from several pictures, from words and from codes; their names, metadata and spectra."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from service.access.api_key import Limits
from service.settings import Settings
from service.storage.embedded_valkey.server import EmbeddedValkey
from tests.support.api_keys import Key, lines
from tests.support.backbones import MAKERS, SERVED_BY_BOTH
from tests.support.busy_server import metric
from tests.support.generations import error_of, generate, images_of
from tests.support.nano import nano
from tests.support.pictures import png
from tests.support.server import ready_server, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import is_image, picture, upload, upload_several

pytestmark = pytest.mark.slow


def create(client: httpx.Client, **fields: object) -> httpx.Response:
    """POST /v1/styles as JSON."""
    return client.post("/v1/styles", json=fields)


@SERVED_BY_BOTH
def test_several_pictures_make_one_style_whatever_their_order(client: httpx.Client) -> None:
    pictures = [picture(seed) for seed in (100, 101, 102)]
    created = upload_several(client, pictures, name="three")
    style = created.json()
    assert created.status_code == 201
    assert (style["source"], style["num_images"], style["name"]) == ("images", 3, "three")
    assert -1 <= style["agreement"] <= 1
    again = upload_several(client, pictures[::-1])
    assert (again.status_code, again.json()) == (200, style)
    one = upload(client, pictures[0]).json()
    assert one["id"] != style["id"]
    assert one["agreement"] is None
    drawn = [images_of(generate(client, style=source["id"], seed=1)) for source in (style, one)]
    assert drawn[0] != drawn[1]


def test_each_picture_of_a_style_can_be_seen(client: httpx.Client) -> None:
    pictures = [picture(103), picture(104, size=(48, 48))]
    path = f"/v1/styles/{upload_several(client, pictures).json()['id']}/image"
    assert is_image(client.get(path).content, "WEBP", (96, 64))
    assert is_image(client.get(path, params={"index": 1}).content, "WEBP", (48, 48))
    assert error_of(client.get(path, params={"index": 2}), 404)["code"] == "style_image_not_found"
    assert error_of(client.get(path, params={"index": -1}), 400)["param"] == "index"


def test_one_bad_picture_of_several_is_refused_and_leaves_nothing(client: httpx.Client) -> None:
    before = client.get("/v1/styles").json()
    assert upload_several(client, [picture(105), picture(106)[:100]]).status_code == 422
    assert client.get("/v1/styles").json() == before


def test_one_bad_picture_of_several_is_named(client: httpx.Client) -> None:
    refused = error_of(upload_several(client, [picture(105), picture(106)[:100], picture(107)]), 422)
    assert refused["message"].startswith("File 2 of 3, '1.png': The picture is cut off")
    assert refused["param"] == "image.1"
    files = [("image", (name, content)) for name, content in (("a", picture(105)), ("b\u202e", b"GIF"))]
    refused = error_of(client.post("/v1/styles", files=files), 415)
    assert refused["message"].startswith("File 2 of 2, 'b': The upload is not in a picture format")
    assert error_of(upload(client, picture(106)[:100]), 422)["param"] == "image"


def test_all_pictures_of_a_request_share_a_budget_of_pixels(tmp_path: Path) -> None:
    pictures = [picture(seed, size=(100, 100)) for seed in (110, 111, 112)]
    with ready_server(tmp_path, tiny_generator(), max_request_pixels=20_000) as (_, client):
        refused = error_of(upload_several(client, pictures), 413)
        assert refused["code"] == "payload_too_large"
        assert refused["message"].startswith("The pictures have 0.0 million pixels together; at most 0.02")
        assert client.get("/v1/styles").json()["data"] == []
        assert upload_several(client, pictures[:2]).status_code == 201


def test_ten_small_files_of_fifty_million_pixels_each_are_refused_from_their_headers(
    tmp_path: Path,
) -> None:
    huge = png(7071, 7071, 8, 6, b"")
    with ready_server(tmp_path, tiny_generator()) as (_, client):
        refused = error_of(upload_several(client, [huge] * 10), 413)
        assert "500.0 million pixels together; at most 100 million" in refused["message"]
        large = picture(113, "JPEG", size=(6000, 6000))  # decoded to a quarter of the side: 2 million pixels
        assert upload_several(client, [large] * 3).status_code == 201


@SERVED_BY_BOTH
def test_a_style_reports_its_spectrum_and_its_dominance(client: httpx.Client) -> None:
    style = upload(client, picture(107)).json()
    sigma = style["singular_values"]
    assert sigma == sorted(sigma, reverse=True)
    assert style["dominance"] == pytest.approx(sigma[0] ** 2 / sum(s**2 for s in sigma), rel=1e-4)
    model = client.get("/v1/models").json()["data"][0]
    assert (style["model"], style["fingerprint"]) == (model["id"], model["fingerprint"])
    (listed,) = client.get("/v1/styles", params={"limit": 1}).json()["data"]
    assert listed == style == client.get(f"/v1/styles/{style['id']}").json()


@SERVED_BY_BOTH
def test_words_make_a_style_that_draws(client: httpx.Client) -> None:
    created = create(client, text="  a red star ", name="words", metadata={"a": "b"})
    style = created.json()
    assert created.status_code == 201
    assert created.headers["Location"] == f"/v1/styles/{style['id']}"
    assert (style["source"], style["text"], style["seed"]) == ("text", "a red star", 0)
    assert (style["num_images"], style["image_width"], style["image_height"]) == (0, None, None)
    assert (style["name"], style["metadata"]) == ("words", {"a": "b"})
    again = create(client, text="a red star")
    assert (again.status_code, again.json()) == (200, style)
    assert create(client, text="a red star", seed=1).json()["id"] != style["id"]
    plain, styled = (images_of(generate(client, seed=1, **extra)) for extra in ({}, {"style": style["id"]}))
    assert plain != styled
    assert error_of(client.get(f"/v1/styles/{style['id']}/image"), 404)["code"] == "style_image_not_found"
    assert client.delete(f"/v1/styles/{style['id']}").json()["deleted"]


def test_a_code_draws_the_same_image_as_its_style_on_a_replica_without_it(
    client: httpx.Client, tmp_path: Path
) -> None:
    style = upload_several(client, [picture(108), picture(109)]).json()
    drawn = images_of(generate(client, style=style["id"], seed=5))
    with ready_server(tmp_path, tiny_generator(), metadata="none") as (_, other):
        assert images_of(generate(other, style=style["code"], seed=5)) == drawn
        as_object = generate(other, style={"id": style["code"], "strength": 1.0}, seed=5)
        assert images_of(as_object) == drawn
        assert as_object.json()["style"]["id"] == style["code"]
        described = other.get(f"/v1/styles/{style['code']}").json()
        for field in ("code", "singular_values", "dominance", "agreement", "num_images"):
            assert described[field] == style[field]
        assert (described["id"], described["created"], described["source"]) == (style["code"], None, "code")
        assert other.get("/v1/styles").json()["data"] == []
        kept = create(other, code=style["code"], name="from afar")
        assert kept.status_code == 201
        assert images_of(generate(other, style=kept.json()["id"], seed=5)) == drawn
        assert create(other, code=style["code"]).json() == kept.json()


def test_another_models_code_is_refused_with_both_fingerprints(client: httpx.Client, tmp_path: Path) -> None:
    code = upload(client, picture(110)).json()["code"]
    with (
        serving(Settings(data_dir=tmp_path), tiny_generator(seed=1)) as elsewhere,
        elsewhere.client() as other,
    ):
        elsewhere.wait_until_settled()
        error = error_of(generate(other, style=code), 400)
        assert (error["code"], error["param"]) == ("foreign_style_code", "style")
        assert f"{0:016x}" in error["message"]
        assert f"{1:016x}" in error["message"]
        assert error_of(create(other, code=code), 400)["param"] == "code"
        assert error_of(other.get(f"/v1/styles/{code}"), 400)["code"] == "foreign_style_code"


@pytest.mark.parametrize("names", [("infinity", "switti"), ("switti", "infinity")], ids="->".join)
def test_another_backbones_code_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    code = ""
    for name in names:
        with serving(Settings(data_dir=tmp_path / name), MAKERS[name]()) as server, server.client() as client:
            server.wait_until_settled()
            if code:
                error = error_of(generate(client, style=code), 400)
            code = upload(client, picture(110)).json()["code"]
    assert (error["code"], error["param"]) == ("foreign_style_code", "style")
    assert error["message"].startswith("This style code is of a model with the fingerprint ")


@SERVED_BY_BOTH
def test_a_damaged_code_is_refused_with_the_reason(client: httpx.Client) -> None:
    code = upload(client, picture(111)).json()["code"]
    damaged = code[:-5] + ("A" if code[-5] != "A" else "B") + code[-4:]
    error = error_of(generate(client, style=damaged), 400)
    assert (error["code"], error["param"]) == ("invalid_style_code", "style")
    assert "checksum" in error["message"]
    mixture = [{"id": code}, {"id": damaged}]
    assert error_of(generate(client, styles=mixture), 400)["param"] == "styles.1.id"


def test_a_code_has_nothing_to_change_or_delete(client: httpx.Client) -> None:
    path = f"/v1/styles/{upload(client, picture(112)).json()['code']}"
    for refused in (client.patch(path, json={"name": "x"}), client.delete(path), client.get(f"{path}/image")):
        assert "is not kept here" in error_of(refused, 404)["message"]


def test_name_and_metadata_can_be_changed_and_removed(client: httpx.Client) -> None:
    created = upload(client, picture(113), name="before", metadata='{"ü": "1"}').json()
    assert created["metadata"] == {"ü": "1"}
    path = f"/v1/styles/{created['id']}"
    changed = client.patch(path, json={"name": " after "})
    assert changed.status_code == 200
    assert changed.json() == created | {"name": "after"}
    assert client.patch(path, json={"metadata": {"b": ""}}).json()["metadata"] == {"b": ""}
    bare = client.patch(path, json={"name": None, "metadata": None}).json()
    assert bare == created | {"name": None, "metadata": {}} == client.get(path).json()
    assert client.patch(path, json={}).json() == bare
    client.delete(path)
    assert error_of(client.patch(path, json={"name": "x"}), 404)["code"] == "style_not_found"


@pytest.mark.parametrize(
    ("body", "param", "part_of_message"),
    [
        ({"nme": "x"}, "nme", "Did you mean name?"),
        ({"name": " "}, "name", "at least 1"),
        ({"name": "x" * 201}, "name", "at most 200"),
        ({"name": 1}, "name", "string"),
        ({"metadata": {"a": 1}}, "metadata", "up to 16 texts"),
        ({"metadata": {"": "x"}}, "metadata", "names of 1 to 64"),
        ({"metadata": {"x" * 65: "x"}}, "metadata", "names of 1 to 64"),
        ({"metadata": {"x": "x" * 513}}, "metadata", "up to 512 characters"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "up to 16 texts"),
        ({"metadata": ["x"]}, "metadata", "object"),
    ],
)
def test_a_wrong_change_is_refused_by_name(
    client: httpx.Client, body: dict[str, object], param: str, part_of_message: str
) -> None:
    path = f"/v1/styles/{upload(client, picture(114)).json()['id']}"
    for refused in (client.patch(path, json=body), create(client, text="x", **body)):
        error = error_of(refused, 400)
        assert error["param"] == param
        assert part_of_message in error["message"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "text", "missing_required_parameter"),
        ({"name": "x"}, "text", "missing_required_parameter"),
        ({"text": "x", "code": "sc1_"}, "code", "conflicting_parameters"),
        ({"text": " "}, "text", "invalid_value"),
        ({"text": "x" * 32_001}, "text", "invalid_value"),
        ({"text": "x", "seed": -1}, "seed", "invalid_value"),
        ({"code": "sc1_", "seed": 1}, "seed", "unknown_parameter"),
        ({"code": "sty_"}, "code", "invalid_style_code"),
        ({"txet": "x"}, "txet", "unknown_parameter"),
        ([], None, "invalid_body"),
    ],
)
def test_a_wrong_body_of_words_or_code_is_refused_by_name(
    client: httpx.Client, body: object, param: str | None, code: str
) -> None:
    error = error_of(client.post("/v1/styles", json=body), 400)
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    "body", [{"text": "\ud800"}, {"text": "x", "name": "\ud800"}, {"metadata": {"a": "\ud800"}}]
)
def test_half_a_surrogate_pair_is_no_text_to_keep(client: httpx.Client, body: dict[str, object]) -> None:
    content, headers = json.dumps({"text": "x"} | body), {"Content-Type": "application/json"}
    assert "string" in error_of(client.post("/v1/styles", content=content, headers=headers), 400)["message"]
    path = f"/v1/styles/{upload(client, picture(115)).json()['id']}"
    assert client.patch(path, content=json.dumps(body), headers=headers).status_code == 400


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(client: httpx.Client, content: bytes) -> None:
    refused = client.post("/v1/styles", content=content, headers={"Content-Type": "application/json"})
    assert error_of(refused, 400)["code"] == "invalid_json"


def test_any_other_kind_of_body_is_refused_with_what_each_kind_is_for(client: httpx.Client) -> None:
    for headers in ({"Content-Type": "text/plain"}, {}):
        refused = client.post("/v1/styles", content=b"x", headers=headers)
        message = error_of(refused, 415)["message"]
        assert "multipart/form-data, with pictures" in message
        assert "application/json, with text or code" in message


async def test_a_list_says_which_styles_the_model_has_not_read_and_asking_for_one_reads_it(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    settings = Settings(data_dir=tmp_path, redis_url=valkey.url)
    with serving(settings, tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        own, other = upload(client, picture(120)).json(), upload(client, picture(121)).json()
        kept = create(client, code=own["code"]).json()
        assert [style["is_read"] for style in (own, other, kept)] == [True] * 3
        assert client.get("/v1/styles").json()["data"] == [kept, other, own]
    with serving(settings, tiny_generator(seed=1)) as server, server.client() as client:
        server.wait_until_settled()
        for style in client.get("/v1/styles").json()["data"]:
            unknown = ("code", "singular_values", "dominance", "agreement")
            assert not style["is_read"]
            assert [style[name] for name in unknown] == [None] * 4
        assert metric(client, 'atelier_batch_size_count{queue="extract"}') == 0
        read = client.get(f"/v1/styles/{own['id']}").json()
        assert read["is_read"]
        assert read["code"] not in (None, own["code"])
        foreign = client.get(f"/v1/styles/{kept['id']}").json()
        assert (foreign["is_read"], foreign["code"]) == (False, None)
        listed = client.get("/v1/styles").json()["data"]
        assert [style["is_read"] for style in listed] == [False, False, True]
        assert listed[2] == read


@pytest.mark.parametrize("charset", ["punycode", "undefined", "utf-7", "utf-16"])
def test_a_form_in_another_charset_is_refused_before_it_is_decoded(
    client: httpx.Client, charset: str
) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + b"a" * 10_000 + b"\r\n--x--\r\n"
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    response = client.post("/v1/styles", content=body, headers=headers)
    assert error_of(response, 415)["message"] == f"The form's charset must be utf-8, not {charset}."


def test_a_text_that_the_model_does_not_know_is_answered_with_a_warning(tmp_path: Path) -> None:
    with ready_server(tmp_path, nano()) as (_, client):
        unknown = create(client, text="zzxq wvut")
        assert unknown.status_code == 201
        warnings = unknown.json()["warnings"]
        assert warnings[0].startswith("the text names nothing that nano knows; it draws ")
        assert warnings[1:] == ['nano does not know in the text: "zzxq", "wvut"']
        assert create(client, text="zzxq wvut").json()["warnings"] == warnings
        assert client.get(f"/v1/styles/{unknown.json()['id']}").json()["warnings"] == warnings
        assert create(client, text="neon").json()["warnings"] == []
        assert upload(client, picture(1)).json()["warnings"] == []
        (cut,) = create(client, text="neon " * 300).json()["warnings"]
        assert cut.startswith("the text was cut: nano reads ")


def test_a_style_from_text_counts_as_an_image_of_the_api_key(tmp_path: Path) -> None:
    key = Key("few", limits=Limits(images=2))
    with (
        ready_server(tmp_path, tiny_generator(), api_keys=lines(key)) as (server, _),
        key.client(server) as client,
    ):
        assert create(client, text="neon").headers["x-ratelimit-remaining-images"] == "1"
        assert upload(client, picture(1)).status_code == 201
        assert create(client, text="wood").status_code == 201
        assert error_of(create(client, text="flat"), 429)["code"] == "rate_limit_exceeded"
