"""Two replicas of nano on a real Ray: load across both, one killed in the middle, and no request lost."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ray", reason="Ray has no wheel for this platform")

from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingContext

from service.ray_serve import QUEUED_SECONDS, QueuedSecondsPolicy, RayOptions, app
from service.settings import PREFIX, Settings
from tests.support.process import ROOT
from tests.support.ray_cluster import Cluster, cluster
from tests.support.uploads import picture, upload
from tests.support.valkey import running_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # Ray's own: sockets and files that it leaves to its processes' end, and names that it deprecates itself.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    store = running_server(tmp_path_factory.mktemp("store"))
    server = asyncio.run_coroutine_threadsafe(store.__aenter__(), loop).result()
    environment = {
        "ATELIER_REDIS_URL": server.url,
        "ATELIER_MODEL": "nano",
        "ATELIER_THREADS": "1",
        "ATELIER_DRAIN_SECONDS": "5",
    }
    try:
        with cluster(2, environment) as running:
            yield running
    finally:
        asyncio.run_coroutine_threadsafe(store.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_style_of_one_replica_is_known_to_the_other_and_events_come_through(running: Cluster) -> None:
    with running.client() as client:
        style = upload(client, picture()).json()["id"]
        body = {"prompt": "a star", "style": style, "stream": True, "partial_images": 1}
        for seed in range(4):
            headers = {"X-Request-ID": f"seed-{seed}"}
            with client.stream(
                "POST", "/v1/images/generations", json=body | {"seed": seed}, headers=headers
            ) as response:
                events = [line for line in response.iter_lines() if line.startswith("event: ")]
            assert response.headers.get_list("X-Request-ID") == [f"seed-{seed}"]
            assert events == ["event: image_generation.partial_image", "event: image_generation.completed"]
        refused = client.post("/v1/styles", files={"image": b"x" * 20 * 2**20})
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "payload_too_large")
        assert client.delete(f"/v1/styles/{style}").status_code == 200
        assert client.get(f"/v1/styles/{style}").status_code == 404
        assert client.get("/metrics").status_code == 503


def test_both_replicas_draw_and_one_that_is_killed_loses_no_request(running: Cluster) -> None:
    before = running.images()
    assert len(before) == 2
    with ThreadPoolExecutor(8) as clients:
        assert {response.status_code for response in clients.map(running.draw, range(24))} == {200}
        drawn = {address: count - before[address] for address, count in running.images().items()}
        assert sum(drawn.values()) == 24
        assert min(drawn.values()) > 0
        requests = [clients.submit(running.draw, seed) for seed in range(24)]
        requests[4].result()  # eight are on their way, on both
        os.kill(next(iter(running.pids().values())), signal.SIGKILL)
        assert [request.result().status_code for request in requests] == [200] * 24


def context(**changes: Any) -> AutoscalingContext:
    replicas = [ReplicaID(f"r{number}", DeploymentID("Replica", "atelier")) for number in range(2)]
    values: dict[str, Any] = {
        "deployment_id": DeploymentID("Replica", "atelier"),
        "deployment_name": "Replica",
        "app_name": "atelier",
        "current_num_replicas": 2,
        "target_num_replicas": 2,
        "running_replicas": replicas,
        "total_num_requests": 0,
        "total_queued_requests": 0,
        "aggregated_metrics": {QUEUED_SECONDS: {replicas[0]: 18.0, replicas[1]: 3.0}},
        "raw_metrics": {},
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 8,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": 0.0,
        "config": None,
    }
    return AutoscalingContext(**(values | changes))


def test_replicas_follow_the_work_that_waits_within_bounds() -> None:
    policy = QueuedSecondsPolicy(queued_seconds=5.0)
    assert policy(context())[0] == 5  # 21 s of work
    assert policy(context(capacity_adjusted_max_replicas=3))[0] == 3
    assert policy(context(aggregated_metrics={}))[0] == 1


def test_the_manifest_names_what_there_is() -> None:
    (manifest,) = yaml.safe_load_all((ROOT / "deploy" / "ray" / "rayservice.yaml").read_text())
    (served,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    module, _, name = served["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is app
    options = RayOptions(**served["args"])
    (workers,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (options.min_replicas, options.max_replicas)
    pod = workers["template"]["spec"]
    names = {variable["name"] for variable in pod["containers"][0]["env"]}
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    assert {name for name in names if name.startswith(PREFIX)} <= known
    assert pod["terminationGracePeriodSeconds"] > Settings(data_dir=Path("unused")).drain_seconds + 5


def test_replicas_without_a_common_store_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATELIER_REDIS_URL", raising=False)
    with pytest.raises(ValueError, match="set ATELIER_REDIS_URL"):
        app(RayOptions())
    monkeypatch.setenv("ATELIER_REDIS_URL", f"unix://{tmp_path}/socket")
    with pytest.raises(ValueError, match="min_replicas is 3, above max_replicas, 2"):
        app(RayOptions(min_replicas=3, max_replicas=2))
