"""The server's end: it drains once, for as long as it was told, and a second signal ends it at once."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import uvicorn

from service.server import DrainingServer
from tests.support.busy_server import busy, hanging
from tests.support.generations import draw, error_of
from tests.support.lost_device import LostDevice
from tests.support.process import PATIENCE_SECONDS, started


async def app(scope: object, receive: object, send: object) -> None:
    """Answers nothing: no request comes."""


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("what", ["device", "thread"])
def test_a_process_whose_accelerator_or_model_thread_died_ends_to_be_started_again(
    tmp_path: Path, what: str
) -> None:
    server = [sys.executable, "-m", "tests.support.lost_device", str(tmp_path), what]
    with started(server, log=tmp_path / "log") as serving, serving.client() as client:
        assert draw(client).status_code == 200
        error = error_of(draw(client, prompt=LostDevice.FAILS_ON), 500)
        assert "restarted" in error["message"]
        assert serving.process.wait(PATIENCE_SECONDS) == 1
    assert "model_died" in (tmp_path / "log").read_text()
