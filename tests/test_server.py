"""The server's end: it drains once, for as long as it was told, and a second signal ends it at once."""

from __future__ import annotations

import signal
from pathlib import Path

import uvicorn

from service.server import DrainingServer
from tests.support.busy_server import busy, hanging


async def app(scope: object, receive: object, send: object) -> None:
    """Answers nothing: no request comes."""


def test_what_is_left_of_the_time_to_drain_is_all_that_is_waited_for(tmp_path: Path) -> None:
    with (
        busy(tmp_path, max_queued=4, drain_seconds=1) as (server, generator),
        hanging(server, {"prompt": "a star"}) as client,
    ):
        generator.wait_for_batch()
        server.end()
        client.recv(65536)  # until the request is cancelled
        assert server.server.config.timeout_graceful_shutdown == 0


def test_a_second_signal_of_any_kind_ends_at_once() -> None:
    server = DrainingServer(uvicorn.Config(app), close=lambda: None, drain_seconds=60)
    server.handle_exit(signal.SIGTERM, None)
    assert (server.should_exit, server.force_exit) == (True, False)
    server.handle_exit(signal.SIGTERM, None)
    assert server.force_exit
