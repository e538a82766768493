"""Many clients for a while, most of them ill-behaved and some hostile, over a store that keeps dying: nothing
fails, hangs, leaks or is lost.

Short in the suite. `make soak` is the whole of it: 200 connections for ten minutes on either kind of store.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis.asyncio import Redis

from service.storage.client import MAX_CONNECTIONS
from tests.support.hostile_client import HostileClient
from tests.support.process import Serving, serve, write_tiny_model
from tests.support.soak import Promises, Tally
from tests.support.soak_client import PATIENCE_SECONDS, SoakClient
from tests.support.soak_store import OwnStore, SharedStore, SoakStore, free_port

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("SOAK_SECONDS", "6"))
NUM_CONNECTIONS = int(os.environ.get("SOAK_CONNECTIONS", "40"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
# Before the first look at memory: every pool, cache and allocator has seen the whole load by then.
WARM_UP_SHARE = 0.4
# After the warm-up: the caches of styles and texts, each with a bound of its own, go on filling.
MAX_GROWTH_BYTES = 64 * 2**20
MAX_LOOKS = 200
HOSTILE_SHARE = 5  # one client in so many
# Short enough that the soak sees connections end by them.
LIMITS = {"ATELIER_HEADER_TIMEOUT_SECONDS": "2", "ATELIER_SILENCE_TIMEOUT_SECONDS": "3"}


@pytest.mark.timeout(400 + 4 * SECONDS)
@pytest.mark.parametrize("kind", ["embedded", "shared"])
async def test_nothing_fails_hangs_leaks_or_is_lost_under_a_load_of_ill_behaved_clients(
    tmp_path: Path, kind: str
) -> None:
    """On the service's own store, and with two replicas that share one over TCP."""
    write_tiny_model(tmp_path / "tiny")
    tally, promises = Tally(), Promises()
    async with serving(tmp_path, kind) as soak:
        await load(soak, tally, promises, seed=SEED, seconds=WARM_UP_SHARE * SECONDS)
        before = await footprints(soak)
        tally.probes.clear()
        await load(soak, tally, promises, seed=SEED + 1, seconds=SECONDS)
        after = await footprints(soak, usual=before)
        codes = sum([await codes_of_all_answers(replica.client) for replica in soak.replicas], Counter())
        print(
            f"\n{kind} store, {NUM_CONNECTIONS} connections, {SECONDS:g} s after a warm-up\n\n"
            f"{tally.table()}\n\n"
            f"all answers by code, as the servers counted them: {dict(sorted(codes.items()))}\n"
            f"{len(promises.kept)} styles kept, {len(promises.gone)} deleted\n/livez: {tally.probes_told()}"
        )
        for first, last in zip(before, after, strict=True):
            print(f"after the warm-up: {first}\nat the end:        {last}")
        assert not tally.surprises, tally.surprises[:10]
        assert not codes.keys() & {"500", "502"}
        assert tally.num_with("503"), "no client felt the store's absence"
        for first, last in zip(before, after, strict=True):
            assert not any(last.gauges.values())
            assert last.num_handles <= first.num_handles
            assert last.resident_bytes - first.resident_bytes < MAX_GROWTH_BYTES
        for replica in soak.replicas:
            await everything_promised_is_there(replica.client, promises)
        await nothing_is_left_of_what_is_gone(soak.store.url, promises)
        for replica in soak.replicas:
            assert replica.server.end(signal.SIGTERM) == 0
    complaints = complaints_in(tmp_path)
    assert not complaints, complaints[:10]


def complaints_in(folder: Path) -> list[str]:
    """Lines of the servers' logs that tell of a failure."""
    logs = [log.read_text() for log in folder.glob("*.log")]
    return re.findall(r".*(?:Traceback|never retrieved|request_failed).*", "".join(logs))


@dataclass(frozen=True)
class Footprint:
    """What a replica holds while nothing is under way."""

    gauges: dict[str, float]  # of work under way
    num_handles: int  # files, sockets and pipes
    resident_bytes: int
    peak_bytes: int

    def __str__(self) -> str:
        memory = f"{self.resident_bytes >> 20} MiB, {self.peak_bytes >> 20} MiB at the peak"
        return f"{self.num_handles} handles, {memory}; {self.gauges}"


@dataclass(frozen=True)
class Replica:
    server: Serving
    client: httpx.AsyncClient


@dataclass(frozen=True)
class Soak:
    store: SoakStore
    replicas: tuple[Replica, ...]


@asynccontextmanager
async def serving(folder: Path, kind: str) -> AsyncIterator[Soak]:
    """One replica on its own store, or two that share one."""
    async with AsyncExitStack() as stack:
        arguments: list[str | Path] = ["--model", folder / "tiny"]
        shared: SharedStore | None = None
        if kind == "shared":
            (folder / "redis").mkdir()
            shared = await stack.enter_async_context(SharedStore.running(folder / "redis", free_port()))
            arguments += ["--redis-url", shared.url]
        servers = [
            stack.enter_context(
                serve(
                    *arguments,
                    "--data-dir",
                    folder / str(number),
                    log=folder / f"{number}.log",
                    environment=LIMITS,
                )
            )
            for number in range(1 if shared is None else 2)
        ]
        store = shared or OwnStore(folder / "0", servers[0].process.pid)
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS, verify=False)
            )
            for server in servers
        ]
        replicas = [Replica(server, client) for server, client in zip(servers, clients, strict=True)]
        yield Soak(store, tuple(replicas))


async def load(soak: Soak, tally: Tally, promises: Promises, *, seed: int, seconds: float) -> None:
    """For so long, and on a slow machine until the store has died twice and some style has been deleted.
    Returns when every client has come to its end, with the store up.
    """
    clock = asyncio.get_running_loop().time
    until, num_killed = clock() + seconds, tally.answers["store", "killed"]

    def is_over() -> bool:
        is_rich = tally.answers["store", "killed"] >= num_killed + 2 and bool(promises.gone)
        return bool(tally.surprises) or (is_rich and clock() >= until)

    urls = [replica.server.url for replica in soak.replicas]
    async with restarting(soak.store, tally, random.Random(seed)), asyncio.TaskGroup() as together:
        for number in range(NUM_CONNECTIONS):
            url, seed_of_client = urls[number % len(urls)], 1000 * seed + number
            client: SoakClient | HostileClient = SoakClient(seed_of_client, url, tally, promises)
            if number % HOSTILE_SHARE == 0:
                client = HostileClient(seed_of_client, urls[number // HOSTILE_SHARE % len(urls)], tally)
            together.create_task(client.run(is_over))
        for replica in soak.replicas:
            together.create_task(probe(replica, tally, is_over))


async def probe(replica: Replica, tally: Tally, is_over: Callable[[], bool]) -> None:
    """One after the other, on a connection of its own: how long `/livez` takes under the load."""
    clock = asyncio.get_running_loop().time
    while not is_over():
        began = clock()
        (await replica.client.get("/livez")).raise_for_status()
        tally.probes.append(clock() - began)
        await tally.more(1)


@asynccontextmanager
async def restarting(store: SoakStore, tally: Tally, chance: random.Random) -> AsyncIterator[None]:
    """Meanwhile the store is killed again and again, and is back after some more answers."""

    async def restart() -> None:
        while True:
            await tally.more(chance.randint(1, 3) * NUM_CONNECTIONS)
            await store.kill()
            await tally.count("store", "killed")
            await tally.more(chance.randint(1, NUM_CONNECTIONS))
            await store.revive()

    task = asyncio.create_task(restart())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        await store.revive()


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


async def footprints(soak: Soak, usual: Sequence[Footprint] = ()) -> list[Footprint]:
    """Of every replica, once all work has come to its end, with all its connections to the store open: each
    death of the store closes some. More handles than `usual` may only be those of clients that are about to
    be closed: look again.
    """
    gauges = [await until_quiet(replica.client) for replica in soak.replicas]
    await open_all_connections(soak)
    found = []
    for index, replica in enumerate(soak.replicas):
        process = psutil.Process(replica.server.process.pid)
        for _ in range(MAX_LOOKS):
            await replica.client.get("/livez")
            if not usual or process.num_fds() <= usual[index].num_handles:
                break
        resident = process.memory_info().rss
        found.append(Footprint(gauges[index], process.num_fds(), resident, peak_bytes(process.pid)))
    return found


async def open_all_connections(soak: Soak) -> None:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(soak.store.url))
        crowds = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=replica.server.url, timeout=PATIENCE_SECONDS, verify=False)
            )
            for replica in soak.replicas
        ]
        while (await redis.info("clients"))["connected_clients"] < 1 + MAX_CONNECTIONS * len(crowds):
            asked = [crowd.get("/v1/styles") for crowd in crowds for _ in range(2 * MAX_CONNECTIONS)]
            await asyncio.gather(*asked)


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


async def nothing_is_left_of_what_is_gone(store_url: str, promises: Promises) -> None:
    """Every key belongs to a style that the list shows, and each of those is whole."""
    async with Redis.from_url(store_url) as redis:
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
