"""Many clients for a while, most of them ill-behaved, over a store that keeps dying: nothing fails, hangs,
leaks or is lost.

Short in the suite. `make soak` is the whole of it: 200 connections for a minute.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis.asyncio import Redis

from service.storage.client import MAX_CONNECTIONS
from service.storage.embedded_valkey.server import EmbeddedValkey
from tests.support.process import Serving, serve, write_tiny_model
from tests.support.soak import Promises, Tally
from tests.support.soak_client import PATIENCE_SECONDS, SoakClient

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("SOAK_SECONDS", "8"))
NUM_CONNECTIONS = int(os.environ.get("SOAK_CONNECTIONS", "60"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
# Before the first look at memory: every pool, cache and allocator has seen the whole load by then.
WARM_UP_SHARE = 0.4
# After the warm-up: the caches of styles and texts, each with a bound of its own, go on filling.
MAX_GROWTH_BYTES = 64 * 2**20
MAX_LOOKS = 200


@pytest.mark.timeout(300 + 3 * SECONDS)
async def test_nothing_fails_hangs_leaks_or_is_lost_under_a_load_of_ill_behaved_clients(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    model = tmp_path / "tiny"
    write_tiny_model(model)
    arguments = ("--data-dir", tmp_path, "--model", model, "--redis-url", valkey.url)
    tally, promises = Tally(), Promises()
    with serve(*arguments, log=tmp_path / "log") as server:
        footprint = psutil.Process(server.process.pid)
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
            await load(server, tally, promises, valkey, seed=SEED, seconds=WARM_UP_SHARE * SECONDS)
            await until_quiet(client)
            handles, resident = await num_handles(footprint, client, valkey), footprint.memory_info().rss
            await load(server, tally, promises, valkey, seed=SEED + 1, seconds=SECONDS)
            gauges = await until_quiet(client)
            handles_after = await num_handles(footprint, client, valkey, usual=handles)
            resident_after = footprint.memory_info().rss
            codes = await codes_of_all_answers(client)
            print(
                f"\n{NUM_CONNECTIONS} connections, {SECONDS:g} s after a warm-up\n\n{tally.table()}\n\n"
                f"all answers by code, as the server counted them: {dict(sorted(codes.items()))}\n"
                f"{len(promises.kept)} styles kept, {len(promises.gone)} deleted\n"
                f"gauges: {gauges}\n"
                f"handles: {handles} after the warm-up, {handles_after} at the end\n"
                f"memory: {resident >> 20} MiB after the warm-up, {resident_after >> 20} MiB at the end, "
                f"{peak_bytes(footprint.pid) >> 20} MiB at the peak"
            )
            assert not tally.surprises, tally.surprises[:10]
            assert not any(gauges.values())
            assert not codes.keys() & {"500", "502"}
            assert tally.num_with("503"), "no client felt the store's absence"
            assert handles_after <= handles
            assert resident_after - resident < MAX_GROWTH_BYTES
            await everything_promised_is_there(client, promises)
        assert server.end(signal.SIGTERM) == 0
    await nothing_is_left_of_what_is_gone(valkey, promises)
    complaints = re.findall(
        r".*(?:Traceback|never retrieved|request_failed).*", (tmp_path / "log").read_text()
    )
    assert not complaints, complaints[:10]


async def load(
    server: Serving, tally: Tally, promises: Promises, valkey: EmbeddedValkey, *, seed: int, seconds: float
) -> None:
    """For so long, and on a slow machine until the store has died twice and some style has been deleted.
    Returns when every client has come to its end, with the store up.
    """
    clock = asyncio.get_running_loop().time
    until, num_killed = clock() + seconds, tally.answers["store", "killed"]

    def is_over() -> bool:
        is_rich = tally.answers["store", "killed"] >= num_killed + 2 and bool(promises.gone)
        return bool(tally.surprises) or (is_rich and clock() >= until)

    clients = [
        SoakClient(1000 * seed + number, server.url, tally, promises) for number in range(NUM_CONNECTIONS)
    ]
    async with restarting(valkey, tally, random.Random(seed)), asyncio.TaskGroup() as together:
        for client in clients:
            together.create_task(client.run(is_over))


@asynccontextmanager
async def restarting(valkey: EmbeddedValkey, tally: Tally, chance: random.Random) -> AsyncIterator[None]:
    """Meanwhile the store is killed again and again, and started again after some more answers."""

    async def restart() -> None:
        while True:
            await tally.more(chance.randint(1, 3) * NUM_CONNECTIONS)
            assert valkey.pid is not None
            os.kill(valkey.pid, signal.SIGKILL)
            await valkey.wait()
            await tally.count("store", "killed")
            await tally.more(chance.randint(1, NUM_CONNECTIONS))
            await valkey.start()

    task = asyncio.create_task(restart())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        if valkey.pid is None:
            await valkey.start()


async def until_quiet(client: httpx.AsyncClient) -> dict[str, float]:
    """The gauges of work under way, once all are zero or nothing can still be under way in good order."""
    clock = asyncio.get_running_loop().time
    patient_until = clock() + PATIENCE_SECONDS
    while True:
        found = re.findall(
            r"^(atelier_(?:queue_depth|queued_work_seconds|requests_running)\S*) (\S+)$",
            (await client.get("/metrics")).text,
            re.MULTILINE,
        )
        gauges = {name: float(value) for name, value in found}
        gauges["atelier_requests_running"] -= 1  # this one
        if not any(gauges.values()) or clock() > patient_until:
            return gauges


async def num_handles(
    footprint: psutil.Process, client: httpx.AsyncClient, valkey: EmbeddedValkey, usual: int = 0
) -> int:
    """Files, sockets and pipes, with all connections to the store open: each of its deaths closes some.
    More than usual may only be those of clients that are about to be closed: look again.
    """
    async with Redis.from_url(valkey.url) as redis, httpx.AsyncClient(base_url=client.base_url) as crowd:
        while (await redis.info("clients"))["connected_clients"] < 1 + MAX_CONNECTIONS:
            await asyncio.gather(*(crowd.get("/v1/styles") for _ in range(2 * MAX_CONNECTIONS)))
    for _ in range(MAX_LOOKS):
        await client.get("/livez")
        if footprint.num_fds() <= usual:
            break
    return footprint.num_fds()


async def codes_of_all_answers(client: httpx.AsyncClient) -> Counter[str]:
    """How many answers of each status the server gave, also to those who did not wait for them."""
    codes: Counter[str] = Counter()
    for code, number in re.findall(
        r'^atelier_requests_total{code="(\d+)".*} (\S+)$', (await client.get("/metrics")).text, re.MULTILINE
    ):
        codes[code] += int(float(number))
    return codes


async def everything_promised_is_there(client: httpx.AsyncClient, promises: Promises) -> None:
    assert promises.contents, "nothing was uploaded"
    assert promises.gone, "nothing was deleted"
    for style_id, style in promises.kept.items():
        assert (await client.get(f"/v1/styles/{style_id}")).json() == style
    for style_id, content in promises.contents.items():
        assert (await client.get(f"/v1/styles/{style_id}/image")).content == content
    for style_id in promises.gone:
        assert (await client.get(f"/v1/styles/{style_id}")).status_code == 404
    assert max(promises.num_made.values()) <= 1, "a style was new more than once"


async def nothing_is_left_of_what_is_gone(valkey: EmbeddedValkey, promises: Promises) -> None:
    """Every key belongs to a style that the list shows, and each of those is whole."""
    async with Redis.from_url(valkey.url) as redis:
        ids: list[Any] = await redis.zrange("atelier:index", 0, -1)
        keys = [key.decode() async for key in redis.scan_iter("atelier:*", count=1000)]
    listed = {style_id.decode() for style_id in ids}
    records = {key.split(":")[2] for key in keys if key.startswith("atelier:style:")}
    parts = {key.split(":")[2] for key in keys if re.match("atelier:(picture|features?):", key)}
    assert records == listed
    assert parts <= listed
    assert promises.kept.keys() <= listed
    assert not promises.gone & listed


def peak_bytes(pid: int) -> int:
    """The most memory that the process ever had; 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0
