"""Many clients at once: batches, the full queue, clients that leave."""

from __future__ import annotations

import base64
import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.rig import GatedGenerator
from tests.server import Running, serving
from tests.tiny import tiny_generator
from tests.uploads import picture, upload

GENERATIONS = "/v1/images/generations"


@contextmanager
def busy(tmp_path: Path, max_queued: int) -> Iterator[tuple[Running, GatedGenerator]]:
    """A ready server whose model holds every batch until the gate is opened."""
    generator = GatedGenerator(tiny_generator())
    with serving(Settings(data_dir=tmp_path, max_queued=max_queued), generator) as running:
        generator.open()
        running.wait_until_settled()
        generator.close()
        try:
            yield running, generator
        finally:
            generator.open()


def metric(client: httpx.Client, name: str) -> float:
    """The value of the sample, labels included in the name; 0 when it is not there yet."""
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def test_requests_at_once_are_batched_and_each_gets_what_it_gets_alone(server: Running) -> None:
    chance = random.Random(7)
    with server.client() as client:
        styles = [upload(client, picture(seed)).json()["id"] for seed in (30, 31, 32)]
        bodies: list[dict[str, Any]] = [
            {
                "prompt": f"a {chance.choice(['red', 'blue'])} {chance.choice(['star', 'mug', 'cat'])}",
                "style": chance.choice([None, *styles, {"id": styles[0], "strength": 0.5}]),
                "seed": chance.randrange(2**32),
                "guidance": chance.choice([None, 2.0]),
            }
            for _ in range(32)
        ]
        alone = [client.post(GENERATIONS, json=body).json()["data"] for body in bodies]
        num_before, jobs_before = (metric(client, f'atelier_batch_size_{of}{{queue="generate"}}') for of in ("count", "sum"))
        with ThreadPoolExecutor(32) as threads:
            together = list(threads.map(lambda body: _post(server, body), bodies))
        num_batches = metric(client, 'atelier_batch_size_count{queue="generate"}') - num_before
        num_jobs = metric(client, 'atelier_batch_size_sum{queue="generate"}') - jobs_before
    assert [response.json()["data"] for response in together] == alone
    assert num_jobs == 32
    assert num_batches < 32


def _post(server: Running, body: dict[str, Any]) -> httpx.Response:
    with server.client() as client:
        return client.post(GENERATIONS, json=body)
