"""A server that is kept busy, and clients that send requests, wait, and disconnect."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from service.settings import Settings
from tests.support.gated_generator import GatedGenerator
from tests.support.generations import GENERATIONS
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator


@contextmanager
def busy(tmp_path: Path, max_queued: int, **more: Any) -> Iterator[tuple[Running, GatedGenerator]]:
    """A ready server whose model holds every batch until the gate is opened."""
    generator = GatedGenerator(tiny_generator())
    generator.open()
    with serving(Settings(data_dir=tmp_path, max_queued=max_queued, **more), generator) as running:
        running.wait_until_settled()
        generator.close()
        try:
            yield running, generator
        finally:
            generator.open()


def post(server: Running, body: dict[str, Any], **headers: str) -> httpx.Response:
    """POST the body; header names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with server.client() as client:
        return client.post(GENERATIONS, json=body, headers=named)


def metric(client: httpx.Client, sample: str) -> float:
    """The value of a sample, its name written with its labels; 0 while there is none."""
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{sample} ")), 0.0)


def wait_for_metric(client: httpx.Client, sample: str, value: float) -> None:
    """Return once the sample has this value. Each look is a round trip; the test's time limit bounds them."""
    while metric(client, sample) != value:
        pass


def wait_until_queued(client: httpx.Client, num_jobs: int) -> None:
    """Return once so many jobs wait."""
    wait_for_metric(client, 'atelier_queue_depth{queue="generate"}', num_jobs)


def hanging(server: Running, body: dict[str, Any]) -> socket.socket:
    """A connection that has sent a request and does not read the answer."""
    content = json.dumps(body).encode()
    connection = socket.create_connection((server.host, server.port))
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection
