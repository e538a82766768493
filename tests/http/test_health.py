"""What an operator asks: does it live, is it ready, what does it count, which request was that."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.errors import NotReady
from service.http.dependencies import Readiness
from service.lifecycle import Silent
from service.settings import Settings
from tests.support.gated_generator import GatedGenerator, SteppingGenerator
from tests.support.server import PATIENCE_SECONDS, Running, serving
from tests.support.tiny import tiny_generator


@pytest.mark.slow
def test_a_loading_service_lives_is_not_ready_and_says_so(tmp_path: Path) -> None:
    generator = GatedGenerator(tiny_generator())
    with serving(Settings(data_dir=tmp_path), generator) as running, running.client() as client:
        assert client.get("/livez").status_code == 200
        for refused in (client.get("/readyz"), client.post("/v1/images/generations", json={"prompt": "a"})):
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "not_ready"
            assert "loading" in refused.json()["error"]["message"]
            assert int(refused.headers["Retry-After"]) > 0
        assert "atelier_ready 0.0" in client.get("/metrics").text
        generator.open()
        running.wait_until_settled()
        assert client.get("/readyz").json() == {"status": "ready", "model": "ready", "store": "ready"}
        assert "atelier_ready 1.0" in client.get("/metrics").text


def test_a_model_that_cannot_be_loaded_leaves_a_reason(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path, model="nonesuch")) as running, running.client() as client:
        running.wait_until_settled()
        assert "nonesuch" in str(running.service.failure)
        assert client.get("/livez").status_code == 200
        assert "could not start" in client.get("/readyz").json()["error"]["message"]


def test_a_service_that_is_stopped_while_it_warms_up_draws_no_more(tmp_path: Path) -> None:
    generator = GatedGenerator(tiny_generator())
    with serving(Settings(data_dir=tmp_path), generator) as running:
        generator.wait_for_batch()
        running.service.close()
        generator.open()
        running.wait_until_settled()
        assert len(generator.sizes) > 1
        assert len(generator.batches) == 1
        assert running.service.failure is None


def test_a_service_that_warms_up_says_how_far_it_is(tmp_path: Path) -> None:
    generator = SteppingGenerator(tiny_generator())
    num_steps = [len(schedule.scales) for schedule in generator.backbone.schedules.values()]
    with serving(Settings(data_dir=tmp_path), generator) as running, running.client() as client:
        generator.let_go(num_steps[0])
        for _ in range(num_steps[0] + 1):  # the last is the next batch's first
            assert generator.stepped.acquire(timeout=PATIENCE_SECONDS)
        refused = client.get("/readyz")
        assert refused.status_code == 503
        assert refused.json()["error"]["message"] == (
            "The model is warming up: 1 of 2 kinds of batches are done."
        )
        generator.let_go(num_steps[1])
        running.wait_until_settled()
        assert client.get("/readyz").status_code == 200


class GatedReading(Silent):
    """Each report of progress waits, on the model thread, while the gate is closed."""

    def __init__(self) -> None:
        self.num_reports = 0
        self.reported, self.gate = threading.Event(), threading.Event()

    @contextmanager
    def bars(self) -> Iterator[Callable[[str, int, int], None]]:
        yield self._report

    def _report(self, name: str, num_done: int, num_bytes: int) -> None:
        self.num_reports += 1
        self.reported.set()
        assert self.gate.wait(PATIENCE_SECONDS), "nobody opened the gate"


def test_a_service_that_is_stopped_while_it_reads_weights_reads_no_more(tmp_path: Path) -> None:
    reading = GatedReading()
    with serving(Settings(data_dir=tmp_path), progress=reading) as running:
        assert reading.reported.wait(PATIENCE_SECONDS)
        running.service.close()
        reading.gate.set()
        running.wait_until_settled()
        assert reading.num_reports == 1
        assert running.service.failure is None


def test_a_service_stopped_while_it_loads_never_becomes_ready(server: Running) -> None:
    readiness = Readiness()
    readiness.close("The service is shutting down.")
    readiness.open(server.service.readiness.require())
    assert not readiness.is_ready
    with pytest.raises(NotReady, match="shutting down"):
        readiness.require()


def test_an_unreachable_store_is_reported_and_plain_images_are_still_drawn(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, redis_url=f"unix://{tmp_path}/nobody.sock")
    with serving(settings, tiny_generator()) as running, running.client() as client:
        running.wait_until_settled()
        assert client.get("/readyz").json()["store"] == "unavailable"
        assert client.post("/v1/images/generations", json={"prompt": "a star"}).status_code == 200
        refused = client.get("/v1/styles")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "store_unavailable"


def test_version_and_models_name_what_runs(client: httpx.Client) -> None:
    version = client.get("/version").json()
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", version["version"])
    assert version["is_batch_invariant"] == (version["row_tile"] in (8, 16, 32, 64))
    listed = client.get("/v1/models").json()
    (model,) = listed["data"]
    assert listed["object"] == "list"
    assert model["object"] == "model"
    assert model["default_size"] in model["sizes"]
    assert re.fullmatch("[0-9a-f]{16}", model["fingerprint"])
    assert (model["guidance"], model["alpha"], model["max_prompt_tokens"]) == (3.0, 1.0, 64)
    assert model["resident_bytes"] > 1_000_000
    assert model["draws"] is None  # any word may mean something to it
    assert client.get(f"/v1/models/{model['id']}").json() == model
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_the_document_and_the_pages_are_there(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert "/v1/images/generations" in document["paths"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert client.get("/docs").headers["Content-Type"].startswith("text/html")
    assert client.get("/", follow_redirects=True).status_code == 200


@pytest.mark.parametrize(
    ("sent", "is_kept"), [("my-id_1.2", True), ("x" * 128, True), ("x" * 129, False), ("a b", False)]
)
def test_a_request_id_is_kept_when_it_is_sound_and_else_made(
    client: httpx.Client, sent: str, is_kept: bool
) -> None:
    answered = client.get("/livez", headers={"X-Request-ID": sent}).headers["X-Request-ID"]
    assert answered == sent if is_kept else re.fullmatch("req_[0-9a-f]{32}", answered)


def test_requests_are_counted_by_route_template_and_code(client: httpx.Client) -> None:
    client.get("/v1/styles/sty_nobody")
    client.get("/v1/styles/sty_nobody_else")
    client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'atelier_requests_total{code="404",route="GET /v1/styles/{style_id}"} 2.0' in text
    assert 'atelier_requests_total{code="404",route="unmatched"} 1.0' in text
    assert 'atelier_request_duration_seconds_count{route="GET /v1/styles/{style_id}"} 2.0' in text
    assert "sty_nobody" not in text
