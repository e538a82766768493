"""Caller: whose request it is, and how much its API key may still ask for."""

from __future__ import annotations

import math
from typing import Literal

from service.access.api_key import ApiKey
from service.access.rate_limiter import RateLimit, RateLimiter, Window
from service.errors import InvalidRequest, RateLimitExceeded
from service.metrics import Metrics
from service.storage.schema import NO_TENANT

Kind = Literal["requests", "images"]


class Caller:
    """Of one request. Nothing is counted without an API key, its limits, or a rate limiter.

    `windows` are the counts as this request has seen them last.
    """

    def __init__(
        self,
        api_key: ApiKey | None = None,
        limiter: RateLimiter | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.tenant = NO_TENANT if api_key is None else api_key.tenant
        self.rates: dict[Kind, RateLimit] = {}
        self.windows: dict[Kind, Window] = {}
        self._limiter = limiter
        self._metrics = metrics
        if api_key is not None and limiter is not None:
            if api_key.limits.requests is not None:
                self.rates["requests"] = RateLimit(f"{api_key.name}/requests", api_key.limits.requests)
            if api_key.limits.images is not None:
                self.rates["images"] = RateLimit(f"{api_key.name}/images", api_key.limits.images)

    async def take(self, kind: Kind, cost: int) -> None:
        """RateLimitExceeded when there is no room for `cost` now; InvalidRequest when there never will be."""
        rate = self.rates.get(kind)
        if rate is None or self._limiter is None:
            return
        if cost > rate.limit:
            raise InvalidRequest(
                f"The request asks for {cost} {kind}, and this API key may ask for {rate.limit} a minute; "
                "ask for fewer at a time.",
                param="n",
            )
        is_taken, window = await self._limiter.take(rate, cost)
        self.windows[kind] = window
        if not is_taken:
            wait = window.wait_seconds(cost)
            if self._metrics is not None:
                self._metrics.refusals.labels(reason=RateLimitExceeded.code).inc()
            raise RateLimitExceeded(
                f"This API key may ask for {rate.limit} {kind} a minute. There is room for {cost} more in "
                f"{math.ceil(wait)} seconds.",
                retry_after_seconds=wait,
            )

    async def look(self) -> None:
        """Fill `windows` in for every rate that this request has not counted against."""
        for kind, rate in self.rates.items():
            if kind not in self.windows and self._limiter is not None:
                self.windows[kind] = await self._limiter.look(rate)
