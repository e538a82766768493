"""The embedded server: durable, alone on its folder, gone with its service, clear when it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from service.storage.embedded_valkey.files import EmbeddedValkeyError, lock_file
from service.storage.embedded_valkey.server import EmbeddedValkey
from tests.support.valkey import running_server

pytestmark = pytest.mark.slow

SERVICE = """
import asyncio, pathlib, sys
from service.storage.embedded_valkey.server import EmbeddedValkey
async def main():
    server = EmbeddedValkey(pathlib.Path(sys.argv[1]))
    await server.start()
    print(server.pid, server._lifeline.pid, flush=True)
    await server.wait()
asyncio.run(main())
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    async with running_server(tmp_path) as server:
        yield server


async def write(server: EmbeddedValkey, key: str, value: bytes) -> None:
    async with Redis.from_url(server.url) as redis:
        await redis.set(key, value)


async def read(server: EmbeddedValkey, key: str) -> bytes | None:
    async with Redis.from_url(server.url) as redis:
        value = await redis.get(key)
        assert value is None or isinstance(value, bytes)
        return value


def kill(server: EmbeddedValkey) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)


def append_log(server: EmbeddedValkey) -> Path:
    (path,) = server.folder.glob("appendonlydir/*.incr.aof")
    return path


async def test_what_was_answered_survives_kill_9(server: EmbeddedValkey) -> None:
    await write(server, "a", b"1")
    kill(server)
    await server.wait()
    assert server.pid is None
    await server.start()
    assert await read(server, "a") == b"1"


async def test_every_write_is_forced_to_the_disk_before_it_is_answered(server: EmbeddedValkey) -> None:
    async with Redis.from_url(server.url) as redis:
        settings = await redis.config_get("append*", "maxmemory-policy", "save", "port")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "always"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["save"] == ""
    assert settings["port"] == "0"


@pytest.mark.parametrize("tail", ["half a command", "zeros", "half a command, then zeros"])
async def test_a_tail_torn_by_a_power_cut_costs_only_what_was_not_answered(
    server: EmbeddedValkey, tail: str
) -> None:
    await write(server, "a", b"1")
    await server.stop()
    torn = {"half": b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$100\r\nxyz", "zeros": bytes(3 << 20)}
    with append_log(server).open("ab") as file:
        file.write(b"".join(content for name, content in torn.items() if name in tail))
    await server.start()
    assert await read(server, "a") == b"1"
    assert await read(server, "b") is None


async def test_a_log_damaged_otherwise_is_refused_with_the_cure(server: EmbeddedValkey) -> None:
    await server.stop()
    with append_log(server).open("ab") as file:
        file.write(b"neither a command nor zeros")
    with pytest.raises(EmbeddedValkeyError, match=r"begins no command.* `atelier store repair"):
        await server.start()


async def test_a_second_service_on_the_folder_is_refused_by_name(
    server: EmbeddedValkey, tmp_path: Path
) -> None:
    with pytest.raises(EmbeddedValkeyError, match=f"process {os.getpid()}.*another --data-dir"):
        await EmbeddedValkey(tmp_path).start()
    await write(server, "still", b"here")


async def test_a_stopped_server_leaves_the_folder_to_the_next(server: EmbeddedValkey, tmp_path: Path) -> None:
    await write(server, "a", b"1")
    await server.stop()
    async with running_server(tmp_path) as other:
        assert await read(other, "a") == b"1"


def is_free(lock: Path) -> bool:
    file = lock_file(lock)
    if file is not None:
        file.close()
    return file is not None


@contextmanager
def service_on(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A service in a process of its own; with the process IDs of its server and its lifeline."""
    service = subprocess.Popen([sys.executable, "-c", SERVICE, folder], stdout=subprocess.PIPE)
    server_pid = 0
    try:
        assert service.stdout is not None
        server_pid, lifeline_pid = map(int, service.stdout.readline().split())
        yield service, server_pid, lifeline_pid
    finally:
        service.kill()
        service.communicate()
        if server_pid and not is_free(folder / "store" / "server.lock"):
            os.kill(server_pid, signal.SIGKILL)  # the test failed: leave nothing running


async def test_the_server_ends_when_its_service_is_killed(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with service_on(tmp_path) as (service, _, _), (tmp_path / "store" / "server.lock").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        service.kill()
        async with asyncio.timeout(10):  # until the server, which holds the lock, has ended
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_UN)


async def test_an_orphan_is_stopped_before_the_next_server_starts(tmp_path: Path) -> None:
    with service_on(tmp_path) as (service, orphan_pid, lifeline_pid):
        os.kill(lifeline_pid, signal.SIGKILL)
        service.kill()
        service.wait()
        os.kill(orphan_pid, 0)
        async with running_server(tmp_path) as server:
            assert server.pid != orphan_pid
            assert not is_free(tmp_path / "store" / "server.lock")
            assert f"pid={server.pid}" in (server.folder / "store.log").read_text()
    # The orphan ended in good order: it was asked, not killed.
    assert "bye bye" in (tmp_path / "store" / "store.previous.log").read_text()


async def test_a_server_that_dies_is_started_again_with_growing_pauses(server: EmbeddedValkey) -> None:
    pauses: asyncio.Queue[float] = asyncio.Queue()
    gate = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        await pauses.put(seconds)
        await gate.acquire()

    await write(server, "a", b"1")
    keeper = asyncio.create_task(server.keep_running(sleep=sleep))
    seen = []
    for _ in range(2):
        kill(server)
        seen.append(await pauses.get())
        gate.release()
        patient = Retry(ConstantBackoff(0.02), retries=500)
        async with Redis.from_url(server.url, retry=patient) as redis:
            assert await redis.get("a") == b"1"
    assert seen == [0.05, 0.1]
    await server.stop()
    await keeper  # a server that is stopped stays stopped


@pytest.mark.parametrize("name", ["with a blank", "quo\"te's", "größe", "back\\slash#?%20", "x" * 120])
async def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    async with running_server(folder) as server:
        await write(server, "a", b"1")
        kill(server)
        await server.wait()
    async with running_server(folder) as server:
        assert await read(server, "a") == b"1"


async def test_a_folder_that_cannot_be_made_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedValkeyError, match=r"cannot use .*file.*store .*ATELIER_REDIS_URL"):
        await EmbeddedValkey(tmp_path / "file").start()


async def test_a_binary_that_does_not_run_here_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "binary").chmod(0o700)
    broken = EmbeddedValkey(tmp_path, binary=tmp_path / "binary")
    with pytest.raises(EmbeddedValkeyError, match=r"binary cannot be run .*ATELIER_REDIS_URL"):
        await broken.start()
    async with running_server(tmp_path):
        pass  # the failed start gave the folder back


async def test_only_this_user_may_reach_the_server(server: EmbeddedValkey) -> None:
    assert server.folder.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.folder / "store.sock"))
    assert (server.folder / "store.sock").stat().st_mode & 0o777 == 0o700
