"""A real Ray on this machine with Atelier on it. `python -m tests.support.ray_cluster` compares two replicas
with one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.busy_server import metric
from tests.support.soak_store import free_port
from tests.support.valkey import running_server

PATIENCE_SECONDS = 120
NUM_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Cluster:
    url: str

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)

    def draw(self, seed: int) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/images/generations", json={"prompt": "a star", "seed": seed})

    def pids(self) -> dict[str, int]:
        """Of the replicas, by the address of each one's metrics."""
        with self.client() as client:
            targets = client.get("/metrics/targets").json()
        return {target["targets"][0]: int(target["labels"]["__meta_atelier_pid"]) for target in targets}

    def images(self) -> dict[str, float]:
        """Drawn by each replica, as each says itself."""
        counts = {}
        for address in self.pids():
            with httpx.Client(base_url=f"http://{address}", timeout=PATIENCE_SECONDS) as client:
                counts[address] = metric(client, "atelier_images_total")
        return counts


def _start_ray(num_cpus: int) -> None:
    """Ray gives a node 30 s to start, which a busy machine may need more than once."""
    import ray

    for attempts_left in reversed(range(4)):
        try:
            ray.init(
                num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        except Exception:
            ray.shutdown()
            if not attempts_left:
                raise
        else:
            return


@contextmanager
def cluster(num_replicas: int, environment: Mapping[str, str]) -> Iterator[Cluster]:
    """Ray with so many replicas; settings are variables, as in production."""
    import ray
    from ray import serve

    from service.ray_serve import RayOptions, app

    # Ray makes its workers nicer than all else on the machine, by 15.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", **environment})
    port = free_port()
    _start_ray(num_cpus=num_replicas + 1)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(RayOptions(min_replicas=num_replicas, max_replicas=num_replicas)), name="atelier")
        yield Cluster(f"http://127.0.0.1:{port}")
    finally:
        serve.shutdown()
        ray.shutdown()
        for name in environment:
            os.environ.pop(name)


async def _compare(num_images: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_server(Path(folder)) as store:
            rates = [
                await asyncio.to_thread(_images_per_second, num, num_images, store.url) for num in (1, 2)
            ]
    print(
        f"images/s with one replica {rates[0]:.2f}, with two {rates[1]:.2f}, ratio {rates[1] / rates[0]:.2f}"
    )


def _images_per_second(num_replicas: int, num_images: int, store_url: str) -> float:
    """Of nano with one thread a replica, under NUM_CLIENTS requests at a time."""
    environment = {"ATELIER_REDIS_URL": store_url, "ATELIER_MODEL": "nano", "ATELIER_THREADS": "1"}
    with cluster(num_replicas, environment) as running, ThreadPoolExecutor(NUM_CLIENTS) as clients:
        list(clients.map(running.draw, range(NUM_CLIENTS)))
        began = time.perf_counter()
        responses = list(clients.map(running.draw, range(num_images)))
        seconds = time.perf_counter() - began
    assert all(response.status_code == 200 for response in responses)
    return num_images / seconds


if __name__ == "__main__":
    asyncio.run(_compare(num_images=120))
