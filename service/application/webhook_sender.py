"""WebhookSender: tells a job's client that it has ended, as Standard Webhooks says (standardwebhooks.com)."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import structlog
from standardwebhooks import Webhook

from service.errors import StoreUnavailable
from service.jobs.record import Job
from service.metrics import Metrics
from service.webhooks.deliveries import Deliveries, Delivery
from service.webhooks.target import AddressRefused, WebhookRules

MAX_AT_ONCE = 8
LEASE_MARGIN_SECONDS = 5.0  # beyond the time for an answer, to write down how it ended
LOOK_SECONDS = 1.0  # how soon one that is due is noticed
MAX_PAUSE_SECONDS = 3600.0
GONE = 410  # says that nobody listens there any more
log = structlog.stdlib.get_logger(__name__)


def pause_seconds(attempts: int, first_seconds: float) -> float:
    """Before the next attempt, after so many: four times as long each time, and half of it by chance, so that
    a receiver that was away is not called by all at once.
    """
    longest = min(MAX_PAUSE_SECONDS, first_seconds * 4.0 ** (attempts - 1))
    return longest * (0.5 + 0.5 * random.random())  # noqa: S311


class WebhookSender:
    """Sends what is due, until it was answered with 2xx: after `max_attempts` it is a dead letter."""

    def __init__(
        self,
        deliveries: Deliveries,
        rules: WebhookRules,
        *,
        metrics: Metrics,
        max_attempts: int,
        timeout_seconds: float,
        pause: Callable[[int], float],
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._deliveries = deliveries
        self._rules = rules
        self._metrics = metrics
        self._max_attempts = max_attempts
        self._timeout_seconds = timeout_seconds
        self._tls = tls or httpx2.create_ssl_context()  # which takes longer to make than a request
        self._pause = pause
        self._sleep = sleep

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            num_sent = 0
            try:
                num_sent = await self.send_due()
            except StoreUnavailable:  # logged and counted
                pass
            except Exception:
                log.exception("webhook_sender_failed")
            if not num_sent:
                await self._sleep(LOOK_SECONDS)

    async def send_due(self) -> int:
        """Sends those that are due, up to MAX_AT_ONCE; how many these were."""
        lease_seconds = self._timeout_seconds + LEASE_MARGIN_SECONDS
        due = await self._deliveries.take(MAX_AT_ONCE, lease_seconds=lease_seconds)
        await asyncio.gather(*(self._send(delivery) for delivery in due))
        return len(due)

    async def _send(self, delivery: Delivery) -> None:
        job_id, attempt, is_final = delivery.job_id, delivery.attempts + 1, False
        try:
            if delivery.job is None:
                raise AddressRefused("The job is forgotten.")
            status = await self._post(delivery, delivery.job)
            is_final = status == GONE
            failure = None if 200 <= status < 300 else f"It was answered with status {status}."
        except AddressRefused as error:
            failure, is_final = str(error), True
        except (httpx2.HTTPError, OSError, TimeoutError) as error:
            failure = f"It could not be delivered: {type(error).__name__}."
        if failure is None:
            outcome = "delivered"
            await self._deliveries.remove(job_id)
        elif is_final or attempt >= self._max_attempts:
            outcome = "dead"
            await self._deliveries.bury(job_id, failure)
        else:
            outcome = "retried"
            await self._deliveries.retry(job_id, self._pause(attempt), failure)
        self._metrics.webhooks.labels(outcome=outcome).inc()
        log.info("webhook", job_id=job_id, outcome=outcome, attempt=attempt, failure=failure)

    async def _post(self, delivery: Delivery, job: Job) -> int:
        """The status of the answer, of which nothing else is read. Redirects are not followed."""
        body = json.dumps(payload(job))
        message_id, now = f"msg_{job.id}", datetime.now(UTC)
        signature = Webhook(delivery.target.secret).sign(message_id, now, body)
        async with asyncio.timeout(self._timeout_seconds):
            parts, address = await self._rules.resolve(delivery.target.url)
            # To the address that was judged: the name is not resolved again, and TLS still verifies the name.
            host = f"[{address}]" if ":" in address else address
            netloc = host if parts.port is None else f"{host}:{parts.port}"
            headers = {
                "Host": parts.netloc,
                "Content-Type": "application/json",
                "User-Agent": "Atelier-Webhooks",
                "webhook-id": message_id,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": signature,
            }
            if delivery.target.traceparent:
                headers["traceparent"] = delivery.target.traceparent
            async with (
                httpx2.AsyncClient(
                    verify=self._tls, trust_env=False, follow_redirects=False, timeout=self._timeout_seconds
                ) as client,
                client.stream(
                    "POST",
                    parts._replace(netloc=netloc).geturl(),
                    content=body.encode(),
                    headers=headers,
                    extensions={"sni_hostname": parts.hostname},
                ) as response,
            ):
                return int(response.status_code)


def payload(job: Job) -> dict[str, Any]:
    """The body: what has happened, without the images, which GET /v1/jobs/{id} has."""
    finished = datetime.fromtimestamp(job.finished or job.created, UTC)
    about: dict[str, Any] = {
        "id": job.id,
        "object": "job",
        "status": job.status.value,
        "endpoint": job.endpoint,
        "created": int(job.created),
        "finished": int(job.finished or job.created),
    }
    if job.error is not None:
        error = job.error
        about["error"] = {
            "message": error.message, "type": error.type, "param": error.param, "code": error.code
        }  # fmt: skip
    return {"type": f"job.{job.status.value}", "timestamp": finished.isoformat(), "data": about}
