"""Jobs: requests that are drawn later. Submits them, and follows them, for the caller of one tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from service.application.caller import Caller
from service.application.generation_request import StyleMix, StyleTerm
from service.batching.job_queue import Owner
from service.jobs.news import JobNews
from service.jobs.record import Job, JobOwner
from service.jobs.store import JobStore
from service.webhooks.target import WebhookRules

# News of a job can be lost with the connection to Redis: then its followers look by themselves.
LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Jobs:
    """The jobs of one caller's tenant; those that exist are read and cancelled through `store`."""

    store: JobStore
    news: JobNews
    webhooks: WebhookRules
    caller: Caller = field(default_factory=Caller)

    def of(self, caller: Caller) -> Jobs:
        """The same with the jobs of the caller's tenant."""
        return replace(self, store=self.store.of(caller.tenant), caller=caller)

    async def submit(
        self,
        endpoint: str,
        request: bytes,
        *,
        key: str | None,
        digest: str,
        webhook: tuple[str, str | None] | None = None,
        traceparent: str = "",
    ) -> Job:
        """As `JobStore.submit`, for this caller, with URL and secret of a webhook, or its API key's, in the
        trace that `traceparent` names.
        """
        owner, caller = replace(owner_of(self.caller), traceparent=traceparent), self.caller
        if webhook is None and caller.webhook is not None:
            webhook = caller.webhook, None
        target = None if webhook is None else self.webhooks.target(*webhook, owner=owner.name)
        written = None if target is None else replace(target, traceparent=traceparent).to_json()
        return await self.store.submit(endpoint, request, owner, key=key, digest=digest, webhook=written)

    async def updates(self, job_id: str) -> AsyncGenerator[Job]:
        """The job as it is, then whenever it has changed, until it has ended."""
        last: Job | None = None
        with self.news.of(job_id) as has_changed:
            while last is None or last.status.is_open:
                has_changed.clear()
                job = await self.store.get(job_id)
                if job != last:
                    yield job
                last = job
                if job.status.is_open:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await has_changed.wait()


def owner_of(caller: Caller) -> JobOwner:
    owner, style = caller.owner, caller.style
    if style is None:
        return JobOwner(caller.tenant, owner.name, owner.weight)
    return JobOwner(caller.tenant, owner.name, owner.weight, style.terms[0].id, style.strength)


def caller_of(owner: JobOwner) -> Caller:
    """The caller as a worker needs it. Its request was counted when it was accepted: nothing limits it."""
    caller = Caller(tenant=owner.tenant, owner=Owner(owner.name, owner.weight))
    if owner.style is not None:
        caller.style = StyleMix((StyleTerm(owner.style, param="Authorization"),), owner.strength)
    return caller
