"""`atelier serve`: what it prints, what survives a kill, how it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.api_keys import Key
from tests.support.process import PATIENCE_SECONDS, ROOT, command, serve, write_tiny_model
from tests.support.uploads import is_image, picture, upload

pytestmark = pytest.mark.slow

GENERATIONS = "/v1/images/generations"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return folder


def test_the_printed_lines_work_as_they_are(tmp_path: Path, model: Path) -> None:
    (tmp_path / "style.png").write_bytes(picture(50))
    with serve("--data-dir", tmp_path, "--model", model, log=tmp_path / "log") as server:
        lines = [line.strip() for line in server.hint.splitlines() if line.strip().startswith("curl")]
        create, draw, metrics = map(shlex.split, lines)
        style = subprocess.run(create, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        with server.client() as client:
            (listed,) = client.get("/v1/styles").json()["data"]
        assert listed["id"] in style
        draw = [part.replace("sty_...", listed["id"]) for part in draw]
        subprocess.run(draw, cwd=tmp_path, check=True, capture_output=True)
        assert is_image((tmp_path / "star.png").read_bytes(), "PNG", (64, 64))
        counted = subprocess.run(metrics, check=True, capture_output=True, text=True).stdout
        assert "atelier_images_total 1.0" in counted


def test_with_api_keys_the_printed_lines_send_one(tmp_path: Path, model: Path) -> None:
    (tmp_path / "style.png").write_bytes(picture(50))
    key = Key("acme")
    (tmp_path / "keys").write_text(key.line)
    arguments = ("--data-dir", tmp_path, "--model", model, "--api-keys-file", tmp_path / "keys")
    with serve(*arguments, log=tmp_path / "log") as server:
        create = next(line for line in server.hint.splitlines() if "v1/styles" in line)
        for secret, part in ((key.secret, '"id":"sty_'), ("wrong", "invalid_api_key")):
            answer = subprocess.run(
                ["/bin/sh", "-c", create],
                cwd=tmp_path,
                env={**os.environ, "API_KEY": secret},
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            assert part in answer
        assert key.secret not in (tmp_path / "log").read_text()


def test_a_style_survives_kill_9_right_after_its_201_and_draws_the_same(tmp_path: Path, model: Path) -> None:
    arguments = ("--data-dir", tmp_path, "--model", model)
    with serve(*arguments, log=tmp_path / "log") as server, server.client() as client:
        first = upload(client, picture(51)).json()
        body = {"prompt": "a star", "seed": 1, "style": first["id"]}
        before = client.post(GENERATIONS, json=body).json()["data"]
        second = upload(client, picture(52))
        server.end(signal.SIGKILL)
    with serve(*arguments, log=tmp_path / "log") as server, server.client() as client:
        assert client.get(second.headers["Location"]).json() == second.json()
        assert client.get(f"/v1/styles/{first['id']}").json() == first
        assert client.post(GENERATIONS, json=body).json()["data"] == before
        assert server.end(signal.SIGTERM) == 0


def test_json_log_lines_are_objects_and_a_request_has_one(tmp_path: Path, model: Path) -> None:
    log = tmp_path / "log"
    with (
        serve("--data-dir", tmp_path, "--model", model, "--log-format", "json", log=log) as server,
        server.client() as client,
    ):
        headers = {"X-Request-ID": "mine"}
        client.post(GENERATIONS, json={"prompt": "a secret star", "n": 2}, headers=headers)
        assert server.end(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "mine"]
    assert (line["event"], line["status"], line["num_images"]) == ("request", 200, 2)
    assert line["transformer_seconds"] > 0
    assert len(line["step_seconds"]) == 6
    assert {"queue_seconds", "text_seconds", "decode_seconds", "encode_seconds"} <= set(line)
    assert line["num_jobs_in_batch"] >= 1
    assert "secret" not in log.read_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_accepted_work_finishes_and_the_exit_status_is_0(
    tmp_path: Path, model: Path, how: signal.Signals
) -> None:
    arguments = ("--data-dir", tmp_path, "--model", model)
    with (
        serve(*arguments, log=tmp_path / "log") as server,
        server.client() as client,
        ThreadPoolExecutor(1) as threads,
    ):
        answer = threads.submit(client.post, GENERATIONS, json={"prompt": "a star", "n": 10})
        with server.client() as other:
            while 'atelier_queue_wait_seconds_count{queue="generate"}' not in other.get("/metrics").text:
                pass
        assert server.end(how) == 0
        assert len(answer.result().json()["data"]) == 10


def test_a_missing_model_is_reported_in_a_sentence(tmp_path: Path) -> None:
    arguments = command("serve", "--port", "0", "--data-dir", tmp_path, "--model", "nonesuch")
    ended = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert ended.returncode == 1
    assert "There is no model 'nonesuch'" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_compiling_without_a_compiler_is_reported_in_a_sentence(tmp_path: Path, model: Path) -> None:
    arguments = command("serve", "--port", "0", "--data-dir", tmp_path / "data", "--model", model)
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    ended = subprocess.run(
        arguments,
        cwd=ROOT,
        env={**environment, "PATH": str(tmp_path), "ATELIER_COMPILE": "true"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 1
    assert "needs a C++ compiler, and there is no g++ here: install it" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_reported_in_a_sentence(tmp_path: Path, model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = command("serve", "--port", port, "--data-dir", tmp_path, "--model", model)
        ended = subprocess.run(
            arguments, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
    assert ended.returncode == 1
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_loads_neither_torch_nor_the_server() -> None:
    look = "import sys, service.cli.main; sys.exit(bool({'torch', 'fastapi', 'redis'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", look], cwd=ROOT, check=True)
