"""Deadlines of a client, uploads that wait, clients that leave in the middle of a batch, the end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.http.middleware.limits import allowed_seconds
from service.settings import Settings
from tests.support.busy_server import busy, hanging, metric, post, wait_for_metric, wait_until_queued
from tests.support.gated_generator import SteppingGenerator
from tests.support.generations import GENERATIONS, error_of
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

UPLOADS = 'atelier_queue_depth{queue="upload"}'


# X-Request-Timeout


@pytest.mark.parametrize("asked", ["0", "-1", "nan", "inf", "soon", "86401", ""])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(client: httpx.Client, asked: str) -> None:
    refused = client.post(GENERATIONS, json={"prompt": "a star"}, headers={"X-Request-Timeout": asked})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == ("X-Request-Timeout", "invalid_value")
    assert "such as 2.5" in error["message"]
    assert refused.headers["X-Request-ID"]


def test_the_shorter_of_both_bounds_counts() -> None:
    assert allowed_seconds("2.5", 1.0) == 1.0
    assert allowed_seconds("0.5", 1.0) == 0.5
    assert allowed_seconds(None, 1.0) == 1.0


def test_a_job_that_expired_in_the_queue_never_reaches_the_model(tmp_path: Path) -> None:
    with busy(tmp_path, max_queued=4) as (server, generator), server.client() as client:
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(post, server, {"prompt": "a star"})
            generator.wait_for_batch()
            late = post(server, {"prompt": "a mug"}, X_Request_Timeout="0.05")
            generator.open()
            assert running.result().status_code == 200
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        assert post(server, {"prompt": "a cat"}, X_Request_Timeout="60").status_code == 200
        assert "a mug" not in [spec.prompt for batch in generator.batches for spec in batch]
        expired = 'atelier_rejections_total{queue="generate",reason="deadline_exceeded"}'
        assert metric(client, expired) == 1
        assert metric(client, 'atelier_cancellations_total{queue="generate",when="queued"}') == 0


def test_a_body_that_does_not_come_is_not_waited_for_beyond_the_deadline(server: Running) -> None:
    with socket.create_connection((server.host, server.port)) as connection:
        head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 9\r\nX-Request-Timeout: 0.05\r\n\r\n{{".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 504 ")


# Uploads


@contextmanager
def blocked_decoding(server: Running) -> Iterator[None]:
    """Every thread that decodes uploads is busy while the context lasts."""
    styles, gate = server.service.readiness.require().styles, threading.Event()
    blocked = [styles.reader.decoding.submit(gate.wait) for _ in range(8)]
    try:
        yield
    finally:
        gate.set()
        for thread in blocked:
            thread.result()


def test_uploads_beyond_the_bound_are_refused_with_the_time_to_wait_and_none_is_lost(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, max_queued_uploads=2)
    with serving(settings, tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        with ThreadPoolExecutor(2) as threads:
            with blocked_decoding(server):
                waiting = [threads.submit(upload, client, picture(seed)) for seed in (60, 61)]
                wait_for_metric(client, UPLOADS, 2)
                refused = upload(client, picture(62))
            assert [future.result().status_code for future in waiting] == [201, 201]
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["Retry-After"]) >= 1
        assert metric(client, UPLOADS) == 0
        assert upload(client, picture(62)).status_code == 201


def test_an_upload_whose_deadline_passes_is_not_stored_and_frees_its_slot(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, max_queued_uploads=1)
    with serving(settings, tiny_generator()) as server, server.client() as client:
        server.wait_until_settled()
        files = {"image": ("style.png", picture(63), "image/png")}
        with blocked_decoding(server):
            late = client.post("/v1/styles", files=files, headers={"X-Request-Timeout": "0.05"})
            assert late.status_code == 504
            assert metric(client, UPLOADS) == 0
        assert client.get("/v1/styles").json()["data"] == []
        assert upload(client, picture(63)).status_code == 201


def test_an_upload_that_expires_while_the_model_is_busy_is_never_extracted(tmp_path: Path) -> None:
    with busy(tmp_path, max_queued=4) as (server, generator), server.client() as client:
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(post, server, {"prompt": "a star"})
            generator.wait_for_batch()
            files = {"image": ("style.png", picture(64), "image/png")}
            late = client.post("/v1/styles", files=files, headers={"X-Request-Timeout": "0.5"})
            assert late.status_code == 504
            assert metric(client, 'atelier_queue_depth{queue="extract"}') == 0
            generator.open()
            assert running.result().status_code == 200
        assert client.get("/v1/styles").json()["data"] == []
        assert metric(client, 'atelier_batch_size_count{queue="extract"}') == 0


# Clients that leave


def test_a_batch_whose_clients_all_disconnected_stops_at_the_next_step(tmp_path: Path) -> None:
    generator = SteppingGenerator(tiny_generator())
    generator.let_go(12)  # the warm-up of both sizes
    cancelled = 'atelier_cancellations_total{queue="generate",when="running"}'
    with serving(Settings(data_dir=tmp_path), generator) as server, server.client() as client:
        server.wait_until_settled()
        generator.stepped, generator.num_steps_done = threading.Semaphore(0), 0
        leaver = hanging(server, {"prompt": "a star"})
        assert generator.stepped.acquire(timeout=60)
        generator.let_go(1)
        assert generator.stepped.acquire(timeout=60)
        leaver.close()
        wait_for_metric(client, cancelled, 1)
        generator.let_go(1)
        generator.let_go(6)
        assert post(server, {"prompt": "a mug"}).status_code == 200
    assert generator.num_steps_done == 2 + 6


# The end


def test_draining_is_red_refuses_new_work_and_finishes_what_was_accepted(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads, busy(tmp_path, max_queued=4) as (server, generator):
        running = threads.submit(post, server, {"prompt": "a star"})
        generator.wait_for_batch()
        queued = threads.submit(post, server, {"prompt": "a mug"})
        with server.client() as client:
            wait_until_queued(client, 1)
            server.end()
            while client.get("/readyz").status_code == 200:
                pass
            red = client.get("/readyz")
            refused = client.post(GENERATIONS, json={"prompt": "a cat"})
            assert client.get("/livez").status_code == 200
            assert metric(client, "atelier_ready") == 0
        for answer in (red, refused):
            assert answer.status_code == 503
            assert "shutting down" in answer.json()["error"]["message"]
            assert int(answer.headers["Retry-After"]) >= 1
        generator.open()
        assert running.result().status_code == queued.result().status_code == 200


def test_low_priority_over_http_waits_for_later_requests(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads, busy(tmp_path, max_queued=4) as (server, generator):
        running = threads.submit(post, server, {"prompt": "a star"})
        generator.wait_for_batch()
        with server.client() as client:
            low = threads.submit(post, server, {"prompt": "a mug", "priority": "low"})
            wait_until_queued(client, 1)
            normal = threads.submit(post, server, {"prompt": "a cat", "size": "96x64"})
            wait_until_queued(client, 2)
            refused = client.post(GENERATIONS, json={"prompt": "a star", "priority": "high"})
        generator.open()
        assert [future.result().status_code for future in (running, low, normal)] == [200] * 3
        assert [batch[0].prompt for batch in generator.batches[-3:]] == ["a star", "a cat", "a mug"]
    assert "'normal' or 'low'" in refused.json()["error"]["message"]


def test_a_compressed_body_is_refused_by_its_header(client: httpx.Client) -> None:
    for path in (GENERATIONS, "/v1/styles"):
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        refused = error_of(client.post(path, content=b"\x1f\x8b", headers=headers), 415)
        assert "Content-Encoding is gzip" in refused["message"]
