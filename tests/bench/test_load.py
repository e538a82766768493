"""The open-loop load: arrivals are decided beforehand, and no request waits for another's answer."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.load import TimedRequest, arrivals, image_requests, offer, stages_of
from service.bench.loop import BatchSteps, Phases, TimedGenerator, Traffic, loop_findings
from service.bench.subject import Subject
from service.model.schedule import Size
from tests.support.busy_server import busy
from tests.support.tiny import tiny_infinity

pytestmark = pytest.mark.slow

RATES = st.floats(0.01, 500)
SECONDS = st.floats(0.1, 20)


@given(RATES, SECONDS, st.integers(0, 2**32 - 1))
def test_arrivals_have_exactly_the_rate_asked_for_within_the_time(
    rate: float, seconds: float, seed: int
) -> None:
    times = arrivals(rate, seconds, seed)
    assert len(times) == max(1, round(rate * seconds))
    assert list(times) == sorted(times)
    assert 0 <= times[0] <= times[-1] <= seconds
    assert arrivals(rate, seconds, seed) == times


@given(st.integers(0, 2**31))
def test_arrivals_are_irregular_and_follow_from_the_seed(seed: int) -> None:
    times = arrivals(10, 20, seed)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) > 2 * sum(gaps) / len(gaps)  # clients that know nothing of each other bunch
    assert arrivals(10, 20, seed + 1) != times


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (1, 0), (1, -1)])
def test_a_load_needs_a_rate_and_a_duration(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="a rate and a duration above 0"):
        arrivals(rate, seconds, 0)


def test_every_request_is_sent_while_none_has_been_answered(tmp_path: Path) -> None:
    with busy(tmp_path, max_queued=4) as (server, generator), ThreadPoolExecutor(1) as threads:

        async def load() -> list[TimedRequest]:
            async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
                style = "sty_none"
                send = image_requests(client, style=style, size="64x64", seed=1)
                plain = unstyled(client)
                return [*await offer([0.0, 0.0, 0.001, 0.002], plain), *await offer([0.0], send)]

        answers = threads.submit(asyncio.run, load())
        generator.wait_for_batch()
        # Four that are not answered, and the question itself: a client that waited for one would hang here.
        wait_until_running(server.url, 5)
        generator.open()
        found = answers.result()
    assert [answer.status for answer in found[:4]] == [200, 200, 200, 200]
    assert found[4].status == 404  # no such style: an answer like any other
    for answer in found:
        assert answer.due <= answer.sent <= answer.ended
        assert answer.latency == answer.ended - answer.due >= answer.lateness
    assert {"queue", "transformer", "step1", "total"} <= set(found[0].stages)


def unstyled(client: httpx2.AsyncClient):  # type: ignore[no-untyped-def]
    async def send(number: int) -> httpx2.Response:
        body = {"prompt": "a star", "seed": number}
        return await client.post("/v1/images/generations", json=body, headers={"Accept": "image/png"})

    return send


def wait_until_running(url: str, num_requests: int) -> None:
    with httpx2.Client(base_url=url, timeout=60) as client:
        for _ in range(10_000):
            if f"atelier_requests_running {num_requests}.0" in client.get("/metrics").text:
                return
    raise AssertionError("the requests did not come")


async def test_a_server_that_is_not_there_is_an_answer_without_a_status() -> None:
    async with httpx2.AsyncClient(base_url="http://127.0.0.1:9", timeout=5) as client:
        (answer,) = await offer([0.0], unstyled(client))
    assert answer.status == 0
    assert answer.stages == {}


def test_latency_counts_from_the_arrival_and_not_from_the_sending() -> None:
    answer = TimedRequest(due=1.0, sent=3.0, ended=4.0, status=200, stages={})
    assert (answer.latency, answer.lateness) == (3.0, 2.0)


def test_stages_are_read_in_seconds() -> None:
    headers = httpx2.Headers({"Server-Timing": "queue;dur=12.50, step13;dur=1000.00, total;dur=2.00"})
    assert stages_of(headers) == {"queue": 0.0125, "step13": 1.0, "total": 0.002}
    assert stages_of(httpx2.Headers()) == {}


def test_a_timed_model_keeps_its_steps_and_the_gaps_between_them() -> None:
    subject = Subject(tiny_infinity(), Size(96, 64), 5, "random")
    generator = TimedGenerator(subject, num_sizes=1)
    assert (generator.sizes, generator.default_size) == ((Size(96, 64),), Size(96, 64))
    assert TimedGenerator(subject, num_sizes=2).sizes == (Size(96, 64), Size(64, 64))
    generator.generate([subject.spec(0, style=0), subject.spec(1)])
    (batch,) = generator.batches
    assert batch.seeds == (5, 6)
    assert len(batch.step_seconds) == 6
    assert len(batch.gap_seconds) == 5
    assert all(gap >= 0 for gap in batch.gap_seconds)
    assert batch.blocked_share is None or -0.1 <= batch.blocked_share <= 1  # of few milliseconds


def test_idle_and_busy_batches_are_told_apart_by_their_seeds() -> None:
    def batch(seed: int, seconds: float, gap: float) -> BatchSteps:
        return BatchSteps((seed,), seconds, (seconds / 2, seconds / 2), (gap,), blocked_share=gap)

    phases = Phases(0, idle=[1, 2], busy=[8, 9, 10], traffic=Traffic(num_uploads=7))
    together = BatchSteps((9, 10), 100.0, (50.0, 50.0), (10.0,))  # of two images: of another length
    found = loop_findings(
        phases, [batch(0, 50, 5), batch(1, 1, 0.1), batch(2, 1, 0.1), batch(8, 1.5, 0.3), together]
    )
    gaps, stages = found.tables
    assert [row.values["median_seconds"] for row in gaps.rows] == [0.1, 0.3]
    assert [row.values["num_gaps"] for row in gaps.rows] == [2, 1]
    assert [row.values["median_ratio"] for row in stages.rows] == [1.0, 1.5]
    assert [row.values["blocked_share"] for row in stages.rows] == [0.1, 0.3]
    assert "7 uploads" in found.notes[0]
