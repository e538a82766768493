"""FeatureCache: style features by size, from this process, from Redis, or rebuilt, in that order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

import structlog
from redis.exceptions import RedisError

from service.model.style.feature import StyleFeature
from service.storage.checksummed import FEATURE, seal, unseal
from service.storage.client import count_error, reaching_store
from service.storage.schema import KEEP_FEATURE, feature_key, features_key, record_key
from service.storage.single_flight import SingleFlight
from service.styles.record import not_found

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from service.metrics import Metrics
    from service.model.schedule import Size
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.model.style.feature import StyleFeature
if TYPE_CHECKING:
    from service.metrics import Metrics
    from service.model.schedule import Size
    from service.model.style.feature import StyleFeature
    from service.styles.extractor import StyleExtractor
    from service.styles.style_code import StyleCodes

FEATURE_SECONDS = 30 * 24 * 3600  # to live, since it was last read from Redis (to within a half)
HOT_SECONDS = 30.0  # for so long a deletion by another replica may go unnoticed here
log = structlog.get_logger(__name__)


class FeatureCache:
    """`rebuild` makes a feature from what the style store keeps for good; its third argument is the `param`
    of the errors it raises.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        rebuild: Callable[[str, Size, str | None], Awaitable[StyleFeature]],
        fingerprint: str,
        schedule_name: Callable[[Size], str],
        metrics: Metrics,
        max_hot: int,
        clock: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._rebuild = rebuild
        self._fingerprint = fingerprint
        self._schedule_name = schedule_name
        self._metrics = metrics
        self._clock = clock
        self._hot = HotFeatures(max_hot)
        self._rebuilds: SingleFlight[tuple[str, str], StyleFeature] = SingleFlight()
        self._keep = redis.register_script(KEEP_FEATURE)

    async def get(self, style_id: str, size: Size, *, param: str | None) -> StyleFeature:
        """A hot feature needs no Redis. Counts one hit or miss, and one `rebuilt` for each extraction."""
        schedule = self._schedule_name(size)
        key = (style_id, schedule)
        hot = self._hot.get(key)
        if hot is not None:
            await self._confirm(style_id, hot, param)
            self._count("hit")
            return hot.feature
        feature = await self._read(style_id, schedule)
        self._count("miss" if feature is None else "hit")
        if feature is None:
            feature = await self._rebuilds.run(key, lambda: self._rebuild_and_keep(style_id, size, param))
        self._hot.put(key, feature, self._clock())
        return feature

    def key(self, style_id: str, size: Size) -> str:
        return feature_key(style_id, self._fingerprint, self._schedule_name(size))

    def put_hot(self, style_id: str, size: Size, feature: StyleFeature) -> None:
        self._hot.put((style_id, self._schedule_name(size)), feature, self._clock())

    def forget(self, style_id: str) -> None:
        """Drop what this process holds of a style; what Redis holds is the store's to delete."""
        self._hot.forget(style_id)

    async def _confirm(self, style_id: str, hot: HotFeature, param: str | None) -> None:
        """Ask now and then whether the style has been deleted by another replica. Redis away means no."""
        now = self._clock()
        if abs(now - hot.checked) < HOT_SECONDS:
            return
        hot.checked = now  # before the answer, so that of many requests one asks
        try:
            exists = await self._redis.exists(record_key(style_id))
        except RedisError as error:
            count_error(error, self._metrics)
            return
        if not exists:
            self._hot.forget(style_id)
            raise not_found(style_id, param=param)

    async def _read(self, style_id: str, schedule: str) -> StyleFeature | None:
        key = feature_key(style_id, self._fingerprint, schedule)
        with reaching_store(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.get(key)
                pipe.ttl(key)
                sealed, seconds_left = await pipe.execute()
        if sealed is None:
            return None
        try:
            feature = StyleFeature.from_bytes(unseal(FEATURE, sealed))
        except ValueError as error:
            log.warning("style_feature_damaged", style_id=style_id, reason=str(error))
            return None
        if seconds_left < FEATURE_SECONDS / 2:  # not at each read: a write waits for the disk
            await self._try(self._redis.expire(key, FEATURE_SECONDS))
        return feature

    async def _rebuild_and_keep(self, style_id: str, size: Size, param: str | None) -> StyleFeature:
        feature = await self._rebuild(style_id, size, param)
        self._count("rebuilt")
        keys = [record_key(style_id), self.key(style_id, size), features_key(style_id)]
        sealed = seal(FEATURE, feature.to_bytes())
        if await self._try(self._keep(keys=keys, args=[sealed, FEATURE_SECONDS])) == 0:
            raise not_found(style_id, param=param)  # deleted meanwhile
        return feature

    async def _try(self, operation: Awaitable[object]) -> object:
        """The answer to a write that only serves the cache; None when it failed, which is only counted."""
        try:
            return await operation
        except RedisError as error:
            count_error(error, self._metrics)
            return None

    def _count(self, result: Literal["hit", "miss", "rebuilt"]) -> None:
        self._metrics.style_features.labels(result=result).inc()


@dataclass(slots=True)
class HotFeature:
    feature: StyleFeature
    checked: float  # when the store last confirmed that the style exists, in seconds


class HotFeatures:
    """A bounded LRU from (style ID, schedule) to a feature."""

    def __init__(self, max_features: int) -> None:
        self._max_features = max_features
        self._features: OrderedDict[tuple[str, str], HotFeature] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: tuple[str, str]) -> HotFeature | None:
        hot = self._features.get(key)
        if hot is not None:
            self._features.move_to_end(key)
        return hot

    def put(self, key: tuple[str, str], feature: StyleFeature, checked: float) -> None:
        self._features[key] = HotFeature(feature, checked)
        self._features.move_to_end(key)
        while len(self._features) > self._max_features:
            self._features.popitem(last=False)

    def forget(self, style_id: str) -> None:
        """Drop the features of a style, of every schedule."""
        for key in [key for key in self._features if key[0] == style_id]:
            del self._features[key]


class CodedFeatures:
    """Restored once and hot from then on, as the features of stored styles are."""

    def __init__(self, codes: StyleCodes, reader: StyleExtractor, *, metrics: Metrics, max_hot: int) -> None:
        self._codes = codes
        self._reader = reader
        self._metrics = metrics
        self._hot = HotFeatures(max_hot)

    async def get(self, code: str, size: Size, *, param: str | None) -> StyleFeature:
        """InvalidRequest says why when the code is damaged or another model's. Counts a hit or a miss."""
        key = (code, self._reader.schedule_name(size))
        hot = self._hot.get(key)
        self._metrics.style_features.labels(result="miss" if hot is None else "hit").inc()
        if hot is not None:
            return hot.feature
        feature = self._reader.restore(self._codes.read(code, param=param), size)
        self._hot.put(key, feature, 0.0)  # a code exists as long as somebody has it
        return feature
