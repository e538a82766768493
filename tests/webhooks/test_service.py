"""Webhooks of a service that runs as users run it: a process, with nano and its own store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.support.busy_server import wait_for_metric
from tests.support.jobs import submit
from tests.support.process import ROOT, Serving, command, serve
from tests.support.webhook_receiver import SILENCE, Receiver, receiving

pytestmark = pytest.mark.slow

MAX_ATTEMPTS = 3
ENVIRONMENT = {
    "ATELIER_WEBHOOK_SECRET": "a secret of thirty-two characters",
    "ATELIER_WEBHOOK_HTTP": "true",
    "ATELIER_WEBHOOK_NETWORKS": "127.0.0.0/8",
    "ATELIER_WEBHOOK_RETRY_SECONDS": "0.05",
    "ATELIER_MAX_WEBHOOK_ATTEMPTS": str(MAX_ATTEMPTS),
}


class Site:
    """A folder with a service that can be killed and started again."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._num_starts = 0
        self.secret = self.atelier("webhooks", "secret", "")
        self.serving = self._start()

    def _start(self) -> Serving:
        self._num_starts += 1
        log = self.folder / f"service-{self._num_starts}.log"
        started = serve(
            "--data-dir", self.folder / "data", "--model", "nano", log=log, environment=ENVIRONMENT
        )
        return self._stack.enter_context(started)

    def kill_and_start(self) -> None:
        self.serving.process.kill()
        self.serving.process.wait()
        self.serving = self._start()

    def atelier(self, *arguments: str) -> str:
        """What the command writes, in a process of its own."""
        run = subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.strip()

    def dead(self) -> str:
        return self.atelier("webhooks", "list", "--data-dir", str(self.folder / "data"))

    def submit(self, receiver: Receiver) -> str:
        with self.serving.client() as client:
            job: str = submit(client, webhook={"url": receiver.url})["id"]
            return job

    def wait_for(self, outcome: str, number: int) -> None:
        """Until so many webhooks had this outcome since the service started."""
        with self.serving.client() as client:
            wait_for_metric(client, f'atelier_webhooks_total{{outcome="{outcome}"}}', number)

    def verified(self, receiver: Receiver, job_id: str) -> dict[str, Any]:
        """The body of the next webhook, which is this job's and signed."""
        headers, content = receiver.next()
        found: dict[str, Any] = Webhook(self.secret).verify(content, headers)
        assert headers["webhook-id"] == f"msg_{job_id}"
        assert (found["type"], found["data"]["id"]) == ("job.succeeded", job_id)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("webhooks"), stack)


def test_one_that_was_not_answered_before_kill_9_is_delivered_after_the_restart(site: Site) -> None:
    with receiving() as receiver:
        receiver.statuses.append(SILENCE)
        job_id = site.submit(receiver)
        first = site.verified(receiver, job_id)
        site.kill_and_start()
        assert site.verified(receiver, job_id) == first
        site.wait_for("delivered", 1)
        assert site.dead() == ""
        assert len(receiver.requests) == 2


def test_one_is_sent_again_until_it_arrives_or_is_given_up_and_replayed_by_the_command(site: Site) -> None:
    site.kill_and_start()  # so that its counts begin at 0
    with receiving() as receiver:
        receiver.statuses += [500] * (MAX_ATTEMPTS - 1)
        job_id = site.submit(receiver)
        bodies = [site.verified(receiver, job_id) for _ in range(MAX_ATTEMPTS)]
        assert bodies == bodies[:1] * MAX_ATTEMPTS
        site.wait_for("delivered", 1)

        receiver.statuses += [500] * MAX_ATTEMPTS
        job_id = site.submit(receiver)
        for _ in range(MAX_ATTEMPTS):
            site.verified(receiver, job_id)
        site.wait_for("dead", 1)
        reason = "It was answered with status 500."
        assert site.dead() == f"{job_id}\t{receiver.url}\t{MAX_ATTEMPTS}\t{reason}"
        assert len(receiver.requests) == 2 * MAX_ATTEMPTS

        said = site.atelier("webhooks", "replay", job_id, "--data-dir", str(site.folder / "data"))
        assert said == "They are sent again."
        site.verified(receiver, job_id)
        site.wait_for("delivered", 2)
        assert site.dead() == ""
