"""Every image that the service returns says where it comes from, as far as ATELIER_METADATA allows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.media.provenance import DIGITAL_SOURCE_TYPE
from service.styles.record import style_id_of
from tests.support.generations import draw, events_of, file_of, generate, images_of
from tests.support.server import ready_server
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server with the default settings."""
    with ready_server(tmp_path_factory.mktemp("default"), tiny_generator()) as (_, client):
        yield client


def packet_of(file: bytes) -> str:
    with Image.open(io.BytesIO(file)) as image:
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp", "")
        return found.decode() if isinstance(found, bytes) else found


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_images_and_previews_name_model_seed_and_style_but_not_the_prompt(
    client: httpx.Client, format: str
) -> None:
    style = upload(client, picture(30)).json()["id"]
    fields = {"style": style, "seed": 5, "prompt": "a secret star"}
    events = events_of(client, **fields, output_format=format, partial_images=2)
    files = [*map(file_of, events), generate(client, accept=f"image/{format}", **fields).content]
    assert len(files) == 4
    for packet in map(packet_of, files):
        assert DIGITAL_SOURCE_TYPE in packet
        assert 'AISystemUsed="tiny"' in packet
        assert 'Seed="5"' in packet
        assert style in packet
        assert "secret" not in packet


def test_the_same_request_gives_the_same_bytes(client: httpx.Client) -> None:
    assert draw(client, n=2).json()["data"] == draw(client, n=2).json()["data"]
    first, second = map(packet_of, images_of(draw(client, n=2)))
    assert ('Seed="1"' in first, 'Seed="2"' in second) == (True, True)


def test_a_style_code_is_named_by_the_id_it_would_have(client: httpx.Client) -> None:
    made = upload(client, picture(31)).json()
    packet = packet_of(images_of(draw(client, style=made["code"]))[0])
    assert made["code"] not in packet
    assert style_id_of(code=made["code"]) in packet


def test_a_style_without_a_part_in_the_image_is_not_named(client: httpx.Client) -> None:
    styles = [{"id": upload(client, picture(seed)).json()["id"], "weight": 33 - seed} for seed in (32, 33)]
    packet = packet_of(images_of(draw(client, styles=styles))[0])
    assert [style["id"] in packet for style in styles] == [True, False]
    none = draw(client, style={"id": styles[0]["id"], "strength": 0})
    assert images_of(none) == images_of(draw(client))


@pytest.mark.parametrize(("choice", "shown"), [("none", False), ("full", True)])
def test_the_setting_decides_what_is_written(tmp_path: Path, choice: str, shown: bool) -> None:
    with ready_server(tmp_path, tiny_generator(), metadata=choice) as (_, client):
        packet = packet_of(images_of(draw(client, prompt="a star & a <heart>", negative_prompt="rain"))[0])
    assert ("a star &amp; a &lt;heart&gt;" in packet) == shown
    assert ("rain" in packet) == shown
    assert bool(packet) == shown


def test_metadata_changes_no_pixel(tmp_path: Path, client: httpx.Client) -> None:
    with ready_server(tmp_path, tiny_generator(), metadata="none") as (_, plain):
        for format in ("png", "jpeg", "webp"):
            files = [images_of(draw(caller, output_format=format))[0] for caller in (client, plain)]
            one, other = (Image.open(io.BytesIO(file)).tobytes() for file in files)
            assert one == other
            assert files[0] != files[1]
