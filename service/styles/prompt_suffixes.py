"""PromptSuffixes: the words that styles add to prompts, as this process has read them last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from cachetools import LRUCache
from redis.asyncio import Redis

from service.errors import StoreUnavailable
from service.metrics import Metrics
from service.storage.client import translate_redis_errors
from service.storage.schema import record_key
from service.styles.feature_cache import CONFIRM_SECONDS


@dataclass(slots=True)
class _Read:
    suffix: str | None
    at: float  # in seconds


class PromptSuffixes:
    """A suffix that another replica changed is used here after CONFIRM_SECONDS at the latest. While Redis is
    unavailable the one read last counts, so that styles in memory keep working.
    """

    def __init__(
        self, redis: Redis, *, metrics: Metrics, max_suffixes: int, clock: Callable[[], float]
    ) -> None:
        self._redis = redis
        self._metrics = metrics
        self._clock = clock
        self._known = LRUCache[str, _Read](max_suffixes)

    async def get(self, style_id: str) -> str | None:
        """Of a style that exists; None where it has none. StoreUnavailable for one that was never read."""
        known = self._known.get(style_id)
        if known is not None and abs(self._clock() - known.at) < CONFIRM_SECONDS:
            return known.suffix
        if known is not None:
            known.at = self._clock()  # before the reply, so that of many requests one reads
        try:
            with translate_redis_errors(self._metrics):
                stored = await self._redis.hget(record_key(style_id), "prompt_suffix")
        except StoreUnavailable:
            if known is None:
                raise
            return known.suffix
        found = cast("bytes | None", stored)  # connect() decodes nothing
        suffix = None if found is None else found.decode()
        self.put(style_id, suffix)
        return suffix

    def put(self, style_id: str, suffix: str | None) -> None:
        """What this process knows since it wrote it."""
        self._known[style_id] = _Read(suffix, self._clock())

    def forget(self, style_id: str) -> None:
        self._known.pop(style_id, None)
