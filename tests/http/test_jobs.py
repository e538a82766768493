"""`Prefer: respond-async`: what a client sees of a job, from 202 to its result."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.model.engine.generator import PendingBatch, never
from service.model.engine.types import ImageSpec
from tests.support.api_keys import Key
from tests.support.busy_server import metric, wait_for_metric
from tests.support.gated_generator import PausingGenerator
from tests.support.generations import GENERATIONS, draw, error_of, images_of
from tests.support.jobs import ASYNC, ended, job_events, submit
from tests.support.server import ready_server
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

FAILS_ON = "a hat"


class JobGenerator(PausingGenerator):
    """The real one, which can pause, fails on one prompt, and knows in which order prompts were drawn."""

    def __init__(self) -> None:
        super().__init__(tiny_generator())
        self.drawn: list[str] = []

    def draw(self, specs: Sequence[ImageSpec], cancelled: Callable[[], bool] = never) -> PendingBatch:
        prompts = [spec.prompt or "" for spec in specs]
        if FAILS_ON in prompts:
            raise RuntimeError("a secret reason")
        batch = super().draw(specs, cancelled)
        self.drawn += prompts
        return batch


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[JobGenerator, httpx.Client]]:
    generator = JobGenerator()
    settings: dict[str, Any] = {"max_job_attempts": 3, "max_job_result_bytes_per_tenant": 2**20}
    folder = tmp_path_factory.mktemp("jobs")
    with ready_server(folder, generator, metadata="none", **settings) as (_, client):
        yield generator, client


@pytest.fixture
def generator(shared: tuple[JobGenerator, httpx.Client]) -> JobGenerator:
    return shared[0]


@pytest.fixture
def client(shared: tuple[JobGenerator, httpx.Client]) -> httpx.Client:
    return shared[1]


def running(generator: JobGenerator, client: httpx.Client, after: int = 1, **fields: Any) -> dict[str, Any]:
    """A job whose model pauses after a step, until the test resumes it."""
    generator.pause_after(after)
    job = submit(client, **fields)
    generator.wait_until_paused()
    return job


def test_a_job_has_the_result_that_its_request_would_have_been_answered(client: httpx.Client) -> None:
    style = upload(client, picture(1)).json()["id"]
    fields: dict[str, Any] = {"seed": 5, "styles_each": [None, style], "n": 2}
    job = ended(client, submit(client, partial_images=3, **fields))
    response = draw(client, **fields)
    assert [base64.b64decode(image["b64_json"]) for image in job["result"]["data"]] == images_of(response)
    assert job["result"] | {"created": 0} == response.json() | {"created": 0}
    assert (job["status"], job["progress"], job["attempts"], job["error"]) == ("succeeded", 1.0, 1, None)
    assert job["created"] <= job["started"] <= job["finished"] < job["expires"]


def test_an_edit_is_a_job_with_the_files_of_its_form(client: httpx.Client) -> None:
    files = {"image": ("photo.png", picture(4), "image/png")}
    data = {"prompt": "a star", "seed": "3", "structure": "0.4"}
    response = client.post("/v1/images/edits", files=files, data=data)
    accepted = client.post("/v1/images/edits", files=files, data=data, headers=ASYNC)
    assert accepted.status_code == 202, accepted.text
    job = ended(client, accepted.json())
    assert (job["status"], job["endpoint"]) == ("succeeded", "/v1/images/edits")
    assert job["result"] | {"created": 0} == response.json() | {"created": 0}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("image", b"no picture", "image"),
        ("mask", picture(4), "mask has no alpha channel"),
        ("regions[0][mask]", picture(5), "regions.0.mask has no alpha channel"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused_before_a_job_is_made(
    client: httpx.Client, name: str, content: bytes, says: str
) -> None:
    style = upload(client, picture(1)).json()["id"]
    files = {"image": ("photo.png", picture(4), "image/png")} | {name: ("file.png", content, "image/png")}
    data = {"prompt": "a star"} | ({"regions[0][style]": style} if name.startswith("regions") else {})
    refused = client.post("/v1/images/edits", files=files, data=data, headers=ASYNC)
    assert refused.status_code in (400, 415), refused.text
    assert says in refused.json()["error"]["message"] + str(refused.json()["error"]["param"])


def test_events_tell_of_previews_which_can_be_fetched_and_of_the_result(
    generator: JobGenerator, client: httpx.Client
) -> None:
    job = running(generator, client, after=5, output_format="webp")
    address = f"/v1/jobs/{job['id']}"
    while (seen := client.get(address).json())["preview"] is None:
        pass
    assert 0 < seen["progress"] < 1
    preview = client.get(seen["preview"])
    assert preview.headers["Content-Type"] == "image/webp"
    assert preview.content[8:12] == b"WEBP"
    with client.stream("GET", f"{address}/events") as response:
        lines = response.iter_lines()
        assert next(lines) == "event: job.running"
        generator.resume()
        names = [line for line in lines if line.startswith("event: ")]
    assert names[-1] == "event: job.succeeded"
    assert set(names[:-1]) <= {"event: job.running"}
    assert job_events(client, job["id"])[-1]["job"] == client.get(address).json()
    assert error_of(client.get(f"{address}/preview"), 404)["code"] == "job_preview_not_found"


def test_a_request_passes_a_job_that_runs(generator: JobGenerator, client: httpx.Client) -> None:
    waits = 'atelier_queue_wait_seconds_count{queue="generate"}'
    job = running(generator, client, prompt="a job")
    before = metric(client, waits)
    with ThreadPoolExecutor(1) as threads:
        request = threads.submit(draw, client, prompt="a request")
        wait_for_metric(client, waits, before + 1)  # handed to the model's thread, which is in the job's step
        generator.resume()
        assert request.result().status_code == 200
    assert ended(client, job)["status"] == "succeeded"
    assert generator.drawn[-2:] == ["a request", "a job"]


def test_a_job_is_cancelled_while_it_waits_and_while_it_runs(
    generator: JobGenerator, client: httpx.Client
) -> None:
    before = metric(client, 'atelier_jobs_total{outcome="cancelled"}')
    first = running(generator, client, prompt="cancelled")
    others = [submit(client) for _ in range(3)]
    for job in (others[-1], first):
        cancelled = client.delete(f"/v1/jobs/{job['id']}").json()
        assert (cancelled["status"], cancelled["result"]) == ("cancelled", None)
        assert job_events(client, job["id"])[-1]["type"] == "job.cancelled"
    generator.resume()
    assert [ended(client, job)["status"] for job in others] == ["succeeded", "succeeded", "cancelled"]
    assert client.get(f"/v1/jobs/{first['id']}").json()["status"] == "cancelled"
    assert "cancelled" not in generator.drawn
    assert metric(client, 'atelier_jobs_total{outcome="cancelled"}') == before + 2
    done = f"/v1/jobs/{others[0]['id']}"
    assert client.delete(done).json()["status"] == "expired"  # its result is deleted
    assert client.get(done).json()["result"] is None


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"n": 11}, 400, "invalid_value"),
        ({"style": "sty_x"}, 404, "style_not_found"),
        ({"style": "sc1_x"}, 400, "invalid_style_code"),
        ({"model": "other"}, 404, "model_not_found"),
        ({"prompt": " "}, 400, "invalid_value"),
        ({"stream": True}, 400, "conflicting_parameters"),
    ],
)
def test_what_can_be_refused_is_refused_before_a_job_is_made(
    client: httpx.Client, fields: dict[str, Any], status: int, code: str
) -> None:
    refused = client.post(GENERATIONS, json={"prompt": "a star"} | fields, headers=ASYNC)
    assert error_of(refused, status)["code"] == code


def test_only_respond_async_is_a_preference_of_ours_and_its_answer_is_json(client: httpx.Client) -> None:
    for prefer, status in (("wait=10", 200), ('x="respond-async"', 200), ("wait=1, Respond-Async;a=b", 202)):
        response = client.post(GENERATIONS, json={"prompt": "a star"}, headers={"Prefer": prefer})
        assert response.status_code == status
    refused = client.post(GENERATIONS, json={"prompt": "a star"}, headers=ASYNC | {"Accept": "image/png"})
    assert error_of(refused, 406)["param"] == "Accept"


def test_the_same_request_with_its_key_again_is_the_same_job(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "job"}
    job = submit(client, headers=key)
    again = client.post(GENERATIONS, json={"prompt": "a star"}, headers=ASYNC | key)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.json()["id"] == job["id"]
    for body, headers in (({"prompt": "a heart"}, ASYNC), ({"prompt": "a star"}, {})):
        refused = client.post(GENERATIONS, json=body, headers=headers | key)
        assert error_of(refused, 422)["code"] == "idempotency_key_reused"


def test_a_job_that_fails_is_tried_again_and_harms_no_other(client: httpx.Client) -> None:
    jobs = [submit(client, prompt=prompt) for prompt in ("a star", FAILS_ON, "a boat")]
    first, failed, last = [ended(client, job) for job in jobs]
    assert (first["status"], last["status"]) == ("succeeded", "succeeded")
    assert (failed["status"], failed["attempts"], failed["result"]) == ("failed", 3, None)
    assert failed["error"]["code"] == "attempts_exhausted"
    assert failed["error"]["message"].startswith("The job was started 3 times, and failed each time.")
    assert "secret" not in failed["error"]["message"]
    assert metric(client, 'atelier_job_retries_total{reason="failed"}') == 3


def test_a_style_that_is_deleted_meanwhile_fails_the_job_at_once(
    generator: JobGenerator, client: httpx.Client
) -> None:
    style = upload(client, picture(3)).json()["id"]
    running(generator, client)
    submit(client)  # as many as are started at once
    job = submit(client, style=style)
    client.delete(f"/v1/styles/{style}")
    generator.resume()
    failed = ended(client, job)
    assert (failed["status"], failed["attempts"]) == ("failed", 1)
    assert (failed["error"]["code"], failed["error"]["param"]) == ("style_not_found", "style")


def test_a_result_that_is_too_large_fails_with_what_would_be_right(client: httpx.Client) -> None:
    failed = ended(client, submit(client, size="1024x1024", n=2))
    assert failed["error"]["code"] == "result_too_large"
    assert "output_format jpeg or webp" in failed["error"]["message"]


def test_a_webhook_is_checked_before_a_job_is_made_and_ignored_without_one(client: httpx.Client) -> None:
    body = {"prompt": "a star", "webhook": {"url": "https://example.com/hook"}}
    refused = client.post(GENERATIONS, json=body, headers=ASYNC)
    assert error_of(refused, 400)["param"] == "webhook.secret"
    body["webhook"] = {"url": "https://169.254.169.254/", "secret": "whsec_" + "A" * 32}
    refused = client.post(GENERATIONS, json=body, headers=ASYNC)
    assert error_of(refused, 400)["param"] == "webhook.url"
    assert "webhook is ignored" in draw(client, webhook=body["webhook"]).json()["warnings"][0]


def test_keys_see_the_jobs_of_their_tenant_and_draw_in_their_default_style(tmp_path: Path) -> None:
    acme, beta = Key("acme"), Key("beta", tenant="shared")
    api_keys = tmp_path / "keys"
    api_keys.write_text(f"{acme.line} images=2\n{beta.line}\n")
    settings: dict[str, Any] = {"api_keys_file": api_keys, "max_jobs": 1}
    with ready_server(tmp_path, tiny_generator(), **settings) as (server, _):
        with acme.client(server) as one, beta.client(server) as other:
            assert ended(one, submit(one, n=2))["status"] == "succeeded"
            refused = one.post(GENERATIONS, json={"prompt": "a star"}, headers=ASYNC)
            assert error_of(refused, 429)["code"] == "rate_limit_exceeded"
            job = one.get("/v1/jobs").json()["data"][0]["id"]
            assert other.get("/v1/jobs").json()["data"] == []
            for suffix in ("", "/preview", "/events"):
                assert error_of(other.get(f"/v1/jobs/{job}{suffix}"), 404)["code"] == "job_not_found"
            assert error_of(other.delete(f"/v1/jobs/{job}"), 404)
            style = upload(other, picture(2)).json()["id"]
        styled = Key("styled", tenant="shared", style=f"{style}:0.5")
        api_keys.write_text(styled.line)
        with styled.client(server) as client:
            found = ended(client, submit(client))["result"]["style"]
            assert (found["id"], found["strength"]) == (style, 0.5)
