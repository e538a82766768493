"""A store whose disk or memory is full: what is there is read, and freed space ends it."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.storage.client import connect
from service.storage.embedded_valkey.files import find_binary
from service.storage.embedded_valkey.server import SPACE_CHECK_SECONDS, EmbeddedValkey
from tests.support.full_disk import largest_file
from tests.support.generations import draw, error_of
from tests.support.server import ready_server
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
            assert client.delete(f"/v1/styles/{style}").status_code == 200
            assert client.get(f"/v1/styles/{style}").status_code == 404
            await redis.config_set("maxmemory", 0)
            assert upload(client, picture(98)).status_code == 201


async def test_the_embedded_store_is_read_only_while_its_disk_is_full(
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
                assert "Free some space" in error["message"]
            gate.release()
            assert await asleep.get() == SPACE_CHECK_SECONDS  # it looked, and there was none
        limit(valkey, UNLIMITED)
        gate.release()
        while (await asyncio.to_thread(upload, client, picture(98))).status_code != 201:
            pass
        assert client.get(f"/v1/styles/{style['id']}").json() == style
    await valkey.stop()
    await keeper
