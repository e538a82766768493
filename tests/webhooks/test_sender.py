"""Webhooks arrive at a real server, signed, once or again, or become dead letters."""

from __future__ import annotations

import base64
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis
from standardwebhooks import Webhook, WebhookVerificationError

from service.application.webhook_sender import LEASE_MARGIN_SECONDS, WebhookSender, pause_seconds
from service.jobs.queue import JobQueue
from service.jobs.record import JobOwner
from service.jobs.store import JobBounds, JobStore
from service.metrics import Metrics
from service.settings import Settings
from service.storage.schema import WEBHOOKS_DUE
from service.webhooks.deliveries import Deliveries
from service.webhooks.target import WebhookRules
from tests.support.certificates import self_signed
from tests.support.webhook_receiver import receiving

pytestmark = pytest.mark.slow

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OWNER = JobOwner("acme", "acme")
TIMEOUT_SECONDS = 5.0
BOUNDS = JobBounds(10, 10_000, 10_000, 10_000, 60)


class Setup:
    """A store with jobs, and what sends their webhooks."""

    def __init__(
        self,
        redis: Redis,
        networks: str = "127.0.0.0/8,::1/128",
        max_attempts: int = 3,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.metrics = metrics = Metrics()
        self.rules = WebhookRules.of(Settings(webhook_http=True, webhook_networks=networks))
        self.store = JobStore(redis, model="tiny", bounds=BOUNDS, metrics=metrics)
        self.queue = JobQueue(redis, model="tiny", bounds=BOUNDS, max_attempts=3, metrics=metrics)
        self.deliveries = Deliveries(redis, metrics=metrics)
        self.sender = WebhookSender(
            self.deliveries,
            self.rules,
            metrics=metrics,
            max_attempts=max_attempts,
            timeout_seconds=TIMEOUT_SECONDS,
            tls=tls,
            pause=lambda attempts: 0.0,
        )

    async def ended(self, url: str, traceparent: str = "") -> str:
        """A job that has succeeded; its ID."""
        target = WebhookRules.of(Settings(webhook_http=True, webhook_networks="0.0.0.0/0")).target(
            url, SECRET, ""
        )
        target = replace(target, traceparent=traceparent)
        job = await self.store.submit("/v1/images/generations", b"{}", OWNER, webhook=target.to_json())
        (claim,) = await self.queue.take(1)
        run = await self.queue.start(claim)
        assert run is not None
        assert await self.queue.succeed(run, b'{"data":[]}', 1.0)
        return job.id

    def count(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("atelier_webhooks_total", {"outcome": outcome})


async def test_a_webhook_arrives_signed_and_the_package_verifies_it(redis: Redis) -> None:
    setup = Setup(redis)
    with receiving() as receiver:
        job_id = await setup.ended(receiver.url, traceparent=TRACEPARENT)
        assert await setup.sender.send_due() == 1
        assert await setup.sender.send_due() == 0
    ((headers, content),) = receiver.requests
    found = Webhook(SECRET).verify(content, headers)
    assert found["type"] == "job.succeeded"
    assert (found["data"]["id"], found["data"]["status"]) == (job_id, "succeeded")
    assert headers["webhook-id"] == f"msg_{job_id}"
    assert headers["traceparent"] == TRACEPARENT
    assert headers["Host"] == f"127.0.0.1:{receiver.port}"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(content.replace(b"succeeded", b"cancelled"), headers)
    assert setup.count("delivered") == 1
    assert not await redis.keys("atelier:webhook*")


async def test_one_that_is_refused_is_sent_again_the_same_and_then_given_up_and_replayed(
    redis: Redis,
) -> None:
    setup = Setup(redis)
    with receiving() as receiver:
        receiver.statuses += [500, 307, 503]  # a redirect is not followed
        job_id = await setup.ended(receiver.url)
        for _ in range(3):
            assert await setup.sender.send_due() == 1
        assert await setup.sender.send_due() == 0
        assert [headers["webhook-id"] for headers, _ in receiver.requests] == [f"msg_{job_id}"] * 3
        assert len({content for _, content in receiver.requests}) == 1
        (dead,) = await setup.deliveries.dead()
        assert (dead.job_id, dead.attempts, dead.failure) == (job_id, 3, "It was answered with status 503.")
        assert not await setup.deliveries.replay("job_x")
        assert await setup.deliveries.replay(job_id)
        assert await setup.sender.send_due() == 1
        assert len(receiver.requests) == 4
    assert (setup.count("retried"), setup.count("dead"), setup.count("delivered")) == (2, 1, 1)
    assert await setup.deliveries.dead() == []


async def test_one_that_nobody_answers_is_retried_and_410_gives_up_at_once(redis: Redis) -> None:
    setup = Setup(redis)
    with receiving() as receiver:
        pass
    await setup.ended(receiver.url)
    await setup.sender.send_due()
    assert setup.count("retried") == 1
    await redis.delete(WEBHOOKS_DUE)
    with receiving() as receiver:
        receiver.statuses += [410]
        await setup.ended(receiver.url)
        await setup.sender.send_due()
    assert setup.count("dead") == 1


async def test_a_private_address_is_never_called_and_is_a_dead_letter_at_once(redis: Redis) -> None:
    setup = Setup(redis, networks="")
    with receiving() as receiver:
        for host in ("127.0.0.1", "localhost", "127.1", "2130706433"):
            await setup.ended(f"http://{host}:{receiver.port}/hook")
        await setup.sender.send_due()
        assert receiver.requests == []
    dead = await setup.deliveries.dead()
    assert len(dead) == 4
    assert all("is no public address" in (delivery.failure or "") for delivery in dead)


@pytest.mark.parametrize(("name", "arrives"), [("localhost", True), ("other.example", False)])
async def test_the_address_that_was_judged_is_called_and_tls_verifies_the_name(
    redis: Redis, tmp_path: Path, name: str, arrives: bool
) -> None:
    """A second look at DNS could say something else: the address is called, the name is in Host and TLS."""
    certificate = self_signed(name, tmp_path)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(certificate)
    setup = Setup(redis, tls=ssl.create_default_context(cafile=certificate))
    _, address = await setup.rules.resolve("https://localhost/")
    with receiving(address, server_tls) as receiver:
        await setup.ended(f"https://localhost:{receiver.port}/hook?a=b")
        await setup.sender.send_due()
    assert [headers["Host"] for headers, _ in receiver.requests] == [f"localhost:{receiver.port}"] * arrives
    assert setup.count("delivered" if arrives else "retried") == 1


async def test_what_a_sender_that_died_had_taken_is_due_again(redis: Redis) -> None:
    setup = Setup(redis)
    with receiving() as receiver:
        job_id = await setup.ended(receiver.url)
        lease_seconds = TIMEOUT_SECONDS + LEASE_MARGIN_SECONDS
        assert len(await setup.deliveries.take(8, lease_seconds=lease_seconds)) == 1
        assert await setup.sender.send_due() == 0  # its lease
        await redis.zincrby(WEBHOOKS_DUE, -1000 * lease_seconds, job_id)  # so much later
        assert await setup.sender.send_due() == 1
    assert len(receiver.requests) == 1


def test_the_pauses_grow_and_are_not_the_same_for_all() -> None:
    for attempts in range(1, 8):
        longest = min(3600, 5 * 4 ** (attempts - 1))
        pauses = {pause_seconds(attempts, first_seconds=5) for _ in range(20)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)
