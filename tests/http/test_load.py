"""Many clients at once: batches, the full queue, clients that leave."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.support.api_keys import Key, lines
from tests.support.busy_server import busy, hanging, metric, post, wait_for_metric, wait_until_queued
from tests.support.gated_generator import FailingGenerator
from tests.support.generations import GENERATIONS
from tests.support.server import Running, serving
from tests.support.tiny import tiny_generator
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow


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
        size = 'atelier_batch_size_{}{{queue="generate"}}'
        num_batches, num_jobs = metric(client, size.format("count")), metric(client, size.format("sum"))
        with ThreadPoolExecutor(len(bodies)) as threads:
            together = list(threads.map(lambda body: post(server, body), bodies))
        assert [response.json()["data"] for response in together] == alone
        assert metric(client, size.format("sum")) - num_jobs == len(bodies)
        assert metric(client, size.format("count")) - num_batches < len(bodies) / 2


def test_a_full_queue_refuses_with_the_time_to_wait_and_accepts_jobs_after_it(
    tmp_path: Path,
) -> None:
    with busy(tmp_path, max_queued=4) as (server, generator), server.client() as client:
        with ThreadPoolExecutor(2) as threads:
            running = threads.submit(post, server, {"prompt": "a star"})
            generator.wait_for_batch()
            queued = threads.submit(post, server, {"prompt": "a star", "n": 3})
            wait_until_queued(client, 3)
            refused = post(server, {"prompt": "a star", "n": 2})
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert int(refused.headers["Retry-After"]) >= 1
            assert metric(client, 'atelier_queue_depth{queue="generate"}') == 3
            generator.open()
            assert running.result().status_code == queued.result().status_code == 200
        assert post(server, {"prompt": "a star", "n": 2}).status_code == 200


def test_more_images_than_the_queue_ever_holds_are_refused_for_good(tmp_path: Path) -> None:
    with busy(tmp_path, max_queued=2) as (server, _):
        assert post(server, {"prompt": "a star", "n": 3}).status_code == 400


def test_a_client_that_disconnects_frees_the_queue(tmp_path: Path) -> None:
    with busy(tmp_path, max_queued=2) as (server, generator), server.client() as client:
        running = hanging(server, {"prompt": "a star"})
        generator.wait_for_batch()
        queued = hanging(server, {"prompt": "a mug", "n": 2})
        wait_until_queued(client, 2)
        queued.close()
        wait_until_queued(client, 0)
        running.close()
        wait_for_metric(client, 'atelier_cancellations_total{queue="generate",when="running"}', 1)
        generator.open()
        assert post(server, {"prompt": "a cat"}).status_code == 200
        assert [spec.prompt for batch in generator.batches[-2:] for spec in batch] == ["a star", "a cat"]
        assert metric(client, f'atelier_requests_total{{code="499",route="POST {GENERATIONS}"}}') == 2


def test_a_late_job_fails_with_504(tmp_path: Path) -> None:
    with busy(tmp_path, max_queued=4, request_timeout_seconds=0.05) as (server, _):
        late = post(server, {"prompt": "a star"})
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"


def test_an_image_that_fails_fails_its_request_and_no_other(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path), FailingGenerator(tiny_generator().backbone)) as server:
        server.wait_until_settled()
        failed = post(server, {"prompt": FailingGenerator.FAILS_ON, "n": 2})
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "generation_failed"
        assert "secret reason" not in failed.text
        assert post(server, {"prompt": "a star"}).status_code == 200


def test_when_one_image_fails_the_others_of_its_request_are_given_up(tmp_path: Path) -> None:
    generator = FailingGenerator(tiny_generator().backbone)
    generator.max_in_batch = 1
    with serving(Settings(data_dir=tmp_path), generator) as server, server.client() as client:
        server.wait_until_settled()
        assert post(server, {"prompt": FailingGenerator.FAILS_ON, "n": 4}).status_code == 500
        cancelled = 'atelier_cancellations_total{{queue="generate",when="{}"}}'
        given_up = [metric(client, cancelled.format(when)) for when in ("queued", "running")]
        assert sum(given_up) == 3


def test_work_accepted_before_a_stop_is_finished(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        with busy(tmp_path, max_queued=4) as (server, generator):
            accepted = threads.submit(post, server, {"prompt": "a star"})
            generator.wait_for_batch()
        assert accepted.result().status_code == 200


def test_one_keys_flood_makes_another_keys_image_wait_for_one_batch(tmp_path: Path) -> None:
    flooding, other = Key("flooding"), Key("other")
    with (
        busy(tmp_path, max_queued=64, api_keys=lines(flooding, other)) as (server, generator),
        server.client() as client,
        ThreadPoolExecutor(8) as threads,
    ):
        flood = [
            threads.submit(post, server, {"prompt": f"a star {i}", "n": 10}, **flooding.headers)
            for i in range(6)
        ]
        generator.wait_for_batch()
        wait_until_queued(client, 60 - len(generator.batches[-1]))
        num_before = len(generator.batches)
        waiting = [
            threads.submit(post, server, {"prompt": "a mug", "size": size}, **other.headers)
            for size in ("64x64", "96x64")
        ]
        wait_until_queued(client, 62 - len(generator.batches[-1]))
        generator.open()
        assert {answer.result().status_code for answer in (*flood, *waiting)} == {200}
        drawn = [
            {(spec.prompt, str(spec.size)) for spec in batch} for batch in generator.batches[num_before:]
        ]
        assert {("a mug", "64x64"), ("a mug", "96x64")} <= drawn[0] | drawn[1]
        assert len(drawn) >= 4
