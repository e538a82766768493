"""Caller: whose request it is, and how much its API key may still request."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from service.access.api_key import ApiKey
from service.access.rate_limiter import RateLimit, RateLimiter, Window
from service.application.generation_request import StyleMix, StyleTerm
from service.batching.job_queue import NO_OWNER, Owner
from service.errors import InvalidRequest, RateLimitExceeded
from service.storage.schema import NO_TENANT, Quota

Kind = Literal["requests", "images"]
KINDS: tuple[Kind, ...] = ("requests", "images")


@dataclass(slots=True)
class Caller:
    """Of one request. `windows` are the counts as this request has seen them last."""

    tenant: str = NO_TENANT
    quota: Quota | None = None  # of the tenant's styles; None without an API key
    owner: Owner = NO_OWNER  # of its jobs: the API key
    rates: dict[Kind, RateLimit] = field(default_factory=dict)
    limiter: RateLimiter | None = None
    windows: dict[Kind, Window] = field(default_factory=dict)
    style: StyleMix | None = None  # where a request names none
    webhook: str | None = None  # the same of the webhooks of its jobs: a URL

    @classmethod
    def of(cls, api_key: ApiKey, limiter: RateLimiter | None) -> Caller:
        """Nothing is counted without limits or without a limiter."""
        limits = {kind: getattr(api_key.limits, kind) for kind in KINDS if limiter is not None}
        rates = {
            kind: RateLimit(f"{api_key.name}/{kind}", limit)
            for kind, limit in limits.items()
            if limit is not None
        }
        quota = Quota(api_key.limits.styles, api_key.limits.bytes)
        owner, style = Owner(api_key.name, api_key.weight), api_key.style
        caller = cls(api_key.tenant, quota, owner, rates, limiter, webhook=api_key.webhook)
        if style is not None:
            # A client that named no style is told where the one that cannot be used comes from.
            caller.style = StyleMix((StyleTerm(style.id, param="Authorization"),), style.strength)
        return caller

    async def take(self, kind: Kind, cost: int) -> None:
        """RateLimitExceeded when `cost` is not available now; InvalidRequest when it never will be."""
        rate = self.rates.get(kind)
        if rate is None or self.limiter is None:
            return
        if cost > rate.limit:
            raise InvalidRequest(
                f"The request asks for {cost} {kind}, and this API key may ask for {rate.limit} a minute; "
                "ask for fewer at a time.",
                param="n",
            )
        is_taken, window = await self.limiter.take(rate, cost)
        self.windows[kind] = window
        if not is_taken:
            wait = window.wait_seconds(cost)
            raise RateLimitExceeded(
                f"This API key may ask for {rate.limit} {kind} a minute; {cost} more will be available in "
                f"{math.ceil(wait)} seconds.",
                retry_after_seconds=wait,
            )

    async def look(self) -> None:
        """Fill `windows` in for every rate that this request has not counted against."""
        for kind, rate in self.rates.items():
            if kind not in self.windows and self.limiter is not None:
                self.windows[kind] = await self.limiter.look(rate)
