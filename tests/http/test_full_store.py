"""A store whose disk or memory is full: what is there is read, and freed space ends it."""

from __future__ import annotations

import asyncio
import io
import resource
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from redis.asyncio import Redis

from service.storage.client import connect
from service.storage.embedded_valkey.files import find_binary
from service.storage.embedded_valkey.server import SPACE_CHECK_SECONDS, EmbeddedValkey
from tests.support.full_disk import largest_file
from tests.support.generations import draw, error_of
from tests.support.process import write_tiny_model
from tests.support.server import ready_server
from tests.support.small_disk import has_small_disks, serving_on_small_disk
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload
from tests.support.valkey import size_of_log

pytestmark = pytest.mark.slow

if sys.platform != "linux":
    pytest.skip("needs prlimit", allow_module_level=True)

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """A server to which a bound on the size of its files is a disk that is full, as `limit` sets it."""
    binary = tmp_path / "valkey"
    # Without the trap the kernel would end it at the first byte too much, instead of refusing that byte.
    binary.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec '{find_binary()}' \"$@\"\n")
    binary.chmod(0o700)
    server = EmbeddedValkey(tmp_path / "store", binary=binary)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def limit(server: EmbeddedValkey, num_bytes: int) -> None:
    assert server.pid is not None
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (num_bytes, UNLIMITED))


async def test_a_redis_whose_disk_is_full_refuses_uploads_with_a_remedy_and_images_are_still_drawn(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    async with connect(valkey.url) as redis:
        await redis.config_set(
            "appendfsync", "everysec"
        )  # Redis's default: it then lives on, refusing writes
        with ready_server(tmp_path, tiny_generator(), redis_url=valkey.url) as (_, client):
            style = upload(client, picture(97)).json()["id"]
            limit(valkey, size_of_log(valkey))
            await redis.set("the last straw", "x")
            while client.get("/readyz").json()["store"] != "read_only":  # Redis looks once a second
                pass
            error = error_of(upload(client, picture(98)), 503)
            assert error["code"] == "store_unavailable"
            assert "Free some space" in error["message"]
            assert draw(client, style=style).status_code == 200
            assert draw(client, style=style, size="96x64").status_code == 200  # its feature is not kept
            limit(valkey, UNLIMITED)
            while upload(client, picture(98)).status_code != 201:  # Redis looks once a second
                pass


async def test_a_store_whose_memory_is_full_accepts_styles_after_others_are_deleted(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    async with connect(valkey.url) as redis:
        with ready_server(tmp_path, tiny_generator(), redis_url=valkey.url) as (_, client):
            style = upload(client, picture(97)).json()["id"]
            await redis.config_set("maxmemory", (await redis.info("memory"))["used_memory"])
            assert "Delete styles" in error_of(upload(client, picture(98)), 503)["message"]
            assert client.get("/readyz").json()["store"] == "read_only"
            assert "atelier_store_read_only 1.0" in client.get("/metrics").text
            assert client.delete(f"/v1/styles/{style}").status_code == 200
            assert client.get(f"/v1/styles/{style}").status_code == 404
            await redis.config_set("maxmemory", 0)
            assert client.get("/readyz").json()["store"] == "ready"
            assert "atelier_store_read_only 0.0" in client.get("/metrics").text
            assert upload(client, picture(98)).status_code == 201


async def test_the_embedded_store_adds_nothing_while_its_disk_is_full(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    asleep: asyncio.Queue[float] = asyncio.Queue()
    gate = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        await asleep.put(seconds)
        await gate.acquire()

    keeper = asyncio.create_task(valkey.keep_running(sleep=sleep))
    async with Redis.from_url(valkey.url) as redis:
        await redis.set("before", "kept")
    with ready_server(tmp_path, tiny_generator(), redis_url=valkey.url) as (_, client):
        style = (await asyncio.to_thread(upload, client, picture(97))).json()
        with largest_file(size_of_log(valkey)):  # inherited by the one that is started instead
            limit(valkey, size_of_log(valkey))
            error = error_of(await asyncio.to_thread(upload, client, picture(98)), 503)
            assert error["code"] == "store_unavailable"
            while await asleep.get() != SPACE_CHECK_SECONDS:
                gate.release()
            assert client.get(f"/v1/styles/{style['id']}").json() == style
            assert draw(client, style=style["id"], size="96x64").status_code == 200
            for _ in range(2):
                error = error_of(await asyncio.to_thread(upload, client, picture(98)), 503)
                assert "free some space" in error["message"]
            gate.release()
            assert await asleep.get() == SPACE_CHECK_SECONDS  # it looked, and there was none
        limit(valkey, UNLIMITED)
        gate.release()
        while (await asyncio.to_thread(upload, client, picture(98))).status_code != 201:
            pass
        assert client.get(f"/v1/styles/{style['id']}").json() == style
    await valkey.stop()
    await keeper


@pytest.mark.skipif(not has_small_disks(), reason="no file system can be mounted here")
def test_on_a_full_disk_styles_are_deleted_and_that_makes_room(tmp_path: Path) -> None:
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    write_tiny_model(tmp_path / "tiny")
    with (
        serving_on_small_disk(
            mount_point, "--model", tmp_path / "tiny", num_bytes=40 << 20, log=tmp_path / "log"
        ) as disk,
        disk.serving.client() as client,
    ):
        kept = upload(client, picture(1)).json()
        noise = [upload(client, noisy_picture(seed)).json()["id"] for seed in range(6)]
        disk.fill()
        error = error_of(first_refused(client), 503)
        assert error["code"] == "store_unavailable"
        while client.get("/readyz").json()["store"] != "read_only":  # while the store starts again
            pass
        assert client.get("/readyz").status_code == 200
        assert "Delete styles" in error_of(upload(client, noisy_picture(99)), 503)["message"]
        assert draw(client, style=kept["id"]).status_code == 200
        for style_id in noise:
            assert client.delete(f"/v1/styles/{style_id}").status_code == 200
            assert client.get(f"/v1/styles/{style_id}").status_code == 404
        while upload(client, noisy_picture(100)).status_code != 201:  # though the other's file is still there
            time.sleep(0.1)  # the server looks once in a few seconds
        assert client.get("/readyz").json()["store"] == "ready"
        assert client.get(f"/v1/styles/{kept['id']}").json() == kept
        assert len(client.get("/v1/styles").json()["data"]) >= 2


def noisy_picture(seed: int) -> bytes:
    """Some megabytes, which no format makes smaller."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def first_refused(client: httpx.Client) -> httpx.Response:
    """Uploads until one is not taken."""
    for seed in range(1000, 2000):
        response = upload(client, picture(seed))
        if response.status_code != 201:
            return response
    raise AssertionError("the disk is not full")
