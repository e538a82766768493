"""`atelier webhooks`: what was given up is shown, and sent again; the secret of a key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import cli
from service.jobs.queue import JobQueue
from service.jobs.record import JobOwner
from service.jobs.store import JobBounds, JobStore
from service.metrics import Metrics
from service.settings import PREFIX
from service.storage.client import connect
from service.webhooks.deliveries import Deliveries
from service.webhooks.target import WebhookTarget
from tests.support.valkey import running_server

BOUNDS = JobBounds(10, 10_000, 10_000, 10_000, 60)


async def a_dead_letter(folder: Path) -> str:
    """Its job."""
    metrics = Metrics()
    async with running_server(folder) as server, connect(server.url) as redis:
        store = JobStore(redis, model="tiny", bounds=BOUNDS, metrics=metrics)
        queue = JobQueue(redis, model="tiny", bounds=BOUNDS, max_attempts=3, metrics=metrics)
        await queue.create()
        target = WebhookTarget("https://example.com/hook", "whsec_x").to_json()
        job = await store.submit("/v1/images/generations", b"{}", JobOwner("", ""), webhook=target)
        await store.cancel(job.id)
        await Deliveries(redis, metrics=metrics).bury(job.id, "Nobody answered.")
    return job.id


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["webhooks", *map(str, arguments)])
    return done.exit_code, done.output


async def test_a_dead_letter_is_shown_and_sent_again(tmp_path: Path) -> None:
    job_id = await a_dead_letter(tmp_path)

    async def ran(*arguments: str | Path) -> tuple[int, str]:
        return await asyncio.to_thread(run, *arguments, "--data-dir", tmp_path)

    line = f"{job_id}\thttps://example.com/hook\t1\tNobody answered.\n"
    assert await ran("list") == (0, line)
    status, output = await ran("replay", "job_x")
    assert status == 1
    assert "Not among those that were given up: job_x" in output
    assert (await ran("replay"))[0] == 1
    assert await ran("replay", "--all") == (0, "They are sent again.\n")
    assert await ran("list") == (0, "")


def test_the_secret_of_a_key_is_printed_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("secret", "shop")[0] == 1
    monkeypatch.setenv(f"{PREFIX}WEBHOOK_SECRET", "m" * 32)
    status, output = run("secret", "shop")
    assert status == 0
    assert output.startswith("whsec_")
