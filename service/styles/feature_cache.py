"""FeatureCache: style features by size, from this process, from Redis, or rebuilt, in that order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog
from cachetools import LRUCache
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.media.images import Picture
from service.metrics import Metrics
from service.model.schedule import Size
from service.model.style.feature import StyleFeature
from service.model.style.tokens import StyleTokens
from service.stage_timer import StageTimer
from service.storage.checksummed import FEATURE, add_checksum, verify_checksum
from service.storage.client import count_error, translate_redis_errors
from service.storage.schema import FEATURE_SECONDS, WRITE_FEATURE, feature_key, features_key, record_key
from service.storage.single_flight import SingleFlight
from service.styles.record import StyleText, not_found
from service.styles.style_code import StyleCodec

CONFIRM_SECONDS = 30.0  # a deletion by another replica goes unnoticed here for at most this long
log = structlog.get_logger(__name__)


class StyleExtractor(Protocol):
    """Makes style features of pictures, texts and style tokens. The model's errors pass through the store."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """16 hex characters; models of one fingerprint extract the same tokens from the same picture."""

    @property
    def style_size(self) -> Size:
        """At which style tokens are extracted: the model's own, whatever sizes are enabled."""

    def schedule_name(self, size: Size) -> str:
        """Names everything that a style feature depends on besides the picture and the model."""

    async def extract(self, picture: Picture, size: Size, stages: StageTimer) -> StyleFeature: ...

    async def extract_text(self, text: StyleText, stages: StageTimer) -> StyleFeature:
        """At the style size."""

    def restore(self, tokens: StyleTokens, size: Size) -> StyleFeature:
        """From tokens extracted at the style size; takes some tenths of a millisecond."""

    def combine(self, features: Sequence[StyleFeature], size: Size) -> StyleFeature:
        """The feature of all their pictures together, extracted for this size: the mean."""

    def check_tokens(self, tokens: StyleTokens) -> None:
        """ValueError unless these are tokens of this model, extracted at the style size."""

    def agreement(self, feature: StyleFeature) -> float | None:
        """How alike the pictures of a style are, -1 to 1; None for one picture."""


@dataclass(slots=True)
class CachedFeature:
    feature: StyleFeature
    confirmed: float  # when the store last confirmed that the style exists, in seconds


@dataclass(slots=True, eq=False)
class Loading:
    """A feature on its way into the cache. A style that is deleted meanwhile must not come back with it."""

    style_id: str
    is_deleted: bool = False


class FeatureCache:
    """`rebuild(style_id, size, param)` makes a feature from the style's record; errors name `param`.

    In memory, the features of stored styles and those of style codes are two LRUs of `max_features` each.
    Each `get` counts one hit or one miss, and `rebuilt` for each extraction.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        extractor: StyleExtractor,
        codec: StyleCodec,
        rebuild: Callable[[str, Size, str | None], Awaitable[StyleFeature]],
        metrics: Metrics,
        max_features: int,
        clock: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._extractor = extractor
        self._codec = codec
        self._rebuild = rebuild
        self._metrics = metrics
        self._lookups = metrics.style_features
        self._clock = clock
        # By style ID or style code, and schedule.
        self._of_styles = LRUCache[tuple[str, str], CachedFeature](max_features)
        self._of_codes = LRUCache[tuple[str, str], StyleFeature](max_features)
        self._loading: set[Loading] = set()
        self._rebuilds = SingleFlight[tuple[str, str], StyleFeature]()
        self._write = redis.register_script(WRITE_FEATURE)

    async def get(self, style_id: str, size: Size, *, param: str | None) -> StyleFeature:
        """The feature of a stored style. One that this process has cached needs no Redis."""
        key = style_id, self._extractor.schedule_name(size)
        cached = self._of_styles.get(key)
        if cached is not None:
            if abs(self._clock() - cached.confirmed) >= CONFIRM_SECONDS:
                await self._confirm_exists(style_id, cached, param)
            self._lookups.labels(result="hit").inc()
            return cached.feature
        with self.loading(style_id) as loading:
            feature = await self._read(style_id, size)
            self._lookups.labels(result="miss" if feature is None else "hit").inc()
            if feature is None:
                feature = await self._rebuilds.run(
                    key, lambda: self._rebuild_and_write(style_id, size, param)
                )
            self.put(loading, size, feature)
        return feature

    def get_of_code(self, code: str, size: Size, *, param: str | None) -> StyleFeature:
        """The feature of a style code. InvalidRequest when the code is damaged or another model's."""
        key = code, self._extractor.schedule_name(size)
        feature = self._of_codes.get(key)
        self._lookups.labels(result="miss" if feature is None else "hit").inc()
        if feature is None:
            feature = self._extractor.restore(self._codec.read(code, param=param), size)
            self._of_codes[key] = feature
        return feature

    @contextmanager
    def loading(self, style_id: str) -> Iterator[Loading]:
        """Lasts from before the store is asked for a style, or given one, until after `put`."""
        loading = Loading(style_id)
        self._loading.add(loading)
        try:
            yield loading
        finally:
            self._loading.remove(loading)

    def put(self, loading: Loading, size: Size, feature: StyleFeature) -> None:
        """Cache the feature in this process, unless its style was deleted here since the loading began."""
        if not loading.is_deleted:
            key = loading.style_id, self._extractor.schedule_name(size)
            self._of_styles[key] = CachedFeature(feature, self._clock())

    def forget(self, style_id: str) -> None:
        """Drop all features of a style from this process, those on their way too."""
        for loading in self._loading:
            loading.is_deleted |= loading.style_id == style_id
        for key in [key for key in self._of_styles if key[0] == style_id]:
            del self._of_styles[key]

    def redis_key(self, style_id: str, size: Size) -> str:
        return feature_key(style_id, self._extractor.fingerprint, self._extractor.schedule_name(size))

    async def _confirm_exists(self, style_id: str, cached: CachedFeature, param: str | None) -> None:
        """StyleNotFound when another replica has deleted the style. Skipped while Redis is unavailable."""
        cached.confirmed = self._clock()  # before the reply, so that of many requests one checks
        try:
            exists = await self._redis.exists(record_key(style_id))
        except RedisError as error:
            count_error(error, self._metrics)
            return
        if not exists:
            self.forget(style_id)
            raise not_found(style_id, param=param)

    async def _read(self, style_id: str, size: Size) -> StyleFeature | None:
        key = self.redis_key(style_id, size)
        with translate_redis_errors(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.get(key)
                pipe.ttl(key)
                stored, seconds_left = await pipe.execute()
        if stored is None:
            return None
        try:
            feature = StyleFeature.from_bytes(verify_checksum(FEATURE, stored))
        except ValueError as error:
            log.warning("style_feature_damaged", style_id=style_id, reason=str(error))
            return None
        if seconds_left < FEATURE_SECONDS / 2:  # not at each read: a write waits for the disk
            await self._try(self._redis.expire(key, FEATURE_SECONDS))
        return feature

    async def _rebuild_and_write(self, style_id: str, size: Size, param: str | None) -> StyleFeature:
        feature = await self._rebuild(style_id, size, param)
        self._lookups.labels(result="rebuilt").inc()
        keys = [record_key(style_id), self.redis_key(style_id, size), features_key(style_id)]
        args: list[bytes | int] = [add_checksum(FEATURE, feature.to_bytes()), FEATURE_SECONDS]
        if await self._try(self._write(keys=keys, args=args)) == 0:
            raise not_found(style_id, param=param)  # deleted during the rebuild
        return feature

    async def _try(self, operation: Awaitable[object]) -> object:
        """The reply to a write that only serves the cache; None when it failed, which is only counted."""
        try:
            return await operation
        except RedisError as error:
            count_error(error, self._metrics)
            return None
