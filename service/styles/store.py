"""StyleStore: styles in Redis. Records and pictures last; features are a cache that can be rebuilt."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from service.errors import InvalidRequest, StoreUnavailable
from service.media import picture_from_content
from service.styles.connection import connect, reaching_store
from service.styles.features import FEATURE_SECONDS, FeatureCache
from service.styles.flights import Flights
from service.styles.keys import (
    CREATE,
    DELETE,
    LIST,
    SEQUENCE,
    features_key,
    index_key,
    picture_key,
    record_key,
)
from service.styles.record import (
    NAMELESS,
    Style,
    damaged,
    from_hash,
    is_style_id,
    not_found,
    style_id_of,
    to_hash,
)
from service.styles.seal import FEATURE, PICTURE, seal, unseal

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from service.media import Picture
    from service.metrics import Metrics
    from service.model.backbone import Size
    from service.model.style import StyleFeature

__all__ = ["Page", "StyleStore", "connect"]


@dataclass(frozen=True, slots=True)
class Page:
    styles: tuple[Style, ...]
    has_more: bool


class StyleStore:
    """The styles of one tenant: at first those of the tenant without a name.

    Every method may raise StoreUnavailable (Redis is away or refuses); those that take an ID,
    StyleNotFound; those that read a record or a picture, ServiceError `style_damaged`.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        extract: Callable[[Picture, Size], Awaitable[StyleFeature]],
        fingerprint: str,
        schedule_name: Callable[[Size], str],
        default_size: Size,
        metrics: Metrics,
        max_hot: int = 512,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._tenant = NAMELESS
        self._extract = extract
        self._default_size = default_size
        self._metrics = metrics
        self._clock = clock
        self.extractions: Flights[str, StyleFeature] = Flights()
        self._features = FeatureCache(
            redis,
            rebuild=self._rebuild,
            fingerprint=fingerprint,
            schedule_name=schedule_name,
            metrics=metrics,
            max_hot=max_hot,
            clock=clock,
        )
        self._create = redis.register_script(CREATE)
        self._delete = redis.register_script(DELETE)
        self._list = redis.register_script(LIST)

    def of(self, tenant: str) -> StyleStore:
        """The same store as this tenant sees it: the styles of others are not there."""
        seen = copy.copy(self)  # the connection, the features in memory and the work in flight are shared
        seen._tenant = tenant
        return seen

    async def create(self, picture: Picture, *, name: str | None) -> tuple[Style, bool]:
        """The style of this picture, and whether it is new. One that exists keeps its name; one whose record
        or picture is damaged is written anew. Nothing is written until its feature has been extracted.
        """
        id = style_id_of([picture.digest], tenant=self._tenant)
        old, is_sound = await self._examine(id)
        if old is not None and is_sound:
            return old, False
        style = old or Style(
            id=id,
            name=name,
            created=int(self._clock()),
            num_images=1,
            image_width=picture.width,
            image_height=picture.height,
            image_media_type=picture.media_type,
        )
        feature = await self.extractions.run(id, lambda: self._extracted(picture))
        winner = await self._write(style, picture, feature, replace=not is_sound)
        self._features.put_hot(id, self._default_size, feature)
        return (style, old is None) if winner is None else (winner, False)

    async def get(self, style_id: str) -> Style:
        self._check(style_id)
        with reaching_store(self._metrics):
            fields = await self._redis.hgetall(record_key(style_id))
        if not fields:
            raise not_found(style_id)
        return _read_record(style_id, cast(dict[bytes, bytes], fields))  # connect() decodes nothing

    async def list(self, *, limit: int, after: str | None, order: Literal["asc", "desc"]) -> Page:
        """Up to `limit` styles by creation, from the one after `after`. InvalidRequest when that is unknown.
        Styles with a damaged record are left out, and logged.
        """
        styles: list[Style] = []
        cursor, ids = after, await self._ids(after, limit + 1, order)
        if ids is None:
            raise InvalidRequest(
                f"There is no style {after!r} to continue after. Give the last ID of the page before, "
                "or start again without `after`.",
                param="after",
            )
        while ids:
            styles += await self._readable(ids)
            if len(styles) > limit:
                break
            cursor = ids[-1]
            ids = await self._ids(cursor, limit + 1, order)
        return Page(tuple(styles[:limit]), has_more=len(styles) > limit)

    async def picture(self, style_id: str) -> bytes:
        """The style image as stored: bounded, re-encoded, of the record's `image_media_type`."""
        self._check(style_id)
        return await self._picture(style_id, param=None)

    async def delete(self, style_id: str) -> None:
        """Removes the record, the picture, and the features of every model and schedule."""
        self._check(style_id)
        keys = [record_key(style_id), picture_key(style_id), features_key(style_id), index_key(self._tenant)]
        with reaching_store(self._metrics):
            num_removed = await self._delete(keys=keys, args=[style_id])
        self._features.forget(style_id)
        if not num_removed:
            raise not_found(style_id)

    async def feature(self, style_id: str, size: Size) -> StyleFeature:
        """For the schedule of `size`. One that is hot needs no Redis; one that is lost is rebuilt, once for
        all who ask meanwhile; errors of `extract` pass through.
        """
        self._check(style_id, param="style")
        return await self._features.get(style_id, size)

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            with reaching_store(self._metrics):
                return bool(await self._redis.ping())
        except StoreUnavailable:
            return False

    async def _examine(self, style_id: str) -> tuple[Style | None, bool]:
        """The record, if there is one that can be read, and whether what is there is sound."""
        with reaching_store(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hgetall(record_key(style_id))
                pipe.get(picture_key(style_id))
                fields, sealed = await pipe.execute()
        if not fields:
            return None, True
        style = None
        try:
            style = from_hash(style_id, fields)
            unseal(PICTURE, sealed or b"")
        except ValueError as error:
            damaged(style_id, "record" if style is None else "picture", error)
            return style, False
        return style, True

    async def _extracted(self, picture: Picture) -> StyleFeature:
        return await self._extract(picture, self._default_size)

    async def _write(
        self, style: Style, picture: Picture, feature: StyleFeature, *, replace: bool
    ) -> Style | None:
        """None when it has been written; else the style that another request wrote first."""
        record = [part for field in to_hash(style).items() for part in field]
        with reaching_store(self._metrics):
            fields = await self._create(
                keys=[
                    record_key(style.id),
                    picture_key(style.id),
                    self._features.key(style.id, self._default_size),
                    features_key(style.id),
                    index_key(self._tenant),
                    SEQUENCE,
                ],
                args=[
                    style.id,
                    seal(PICTURE, picture.content),
                    seal(FEATURE, feature.to_bytes()),
                    FEATURE_SECONDS,
                    "replace" if replace else "",
                    *record,
                ],
            )
        if not fields:
            return None
        return _read_record(style.id, dict(zip(fields[::2], fields[1::2], strict=True)))

    async def _ids(self, after: str | None, limit: int, order: str) -> Sequence[str] | None:
        with reaching_store(self._metrics):
            ids = await self._list(keys=[index_key(self._tenant)], args=[after or "", limit, order])
        return None if ids is None else [id.decode() for id in ids]

    async def _readable(self, ids: Sequence[str]) -> Sequence[Style]:
        with reaching_store(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                for id in ids:
                    pipe.hgetall(record_key(id))
                records = await pipe.execute()
        styles = []
        for id, fields in zip(ids, records, strict=True):
            if fields:  # else deleted since the index was read
                try:
                    styles.append(from_hash(id, fields))
                except ValueError as error:
                    damaged(id, "record", error)
        return styles

    async def _picture(self, style_id: str, *, param: str | None) -> bytes:
        with reaching_store(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.exists(record_key(style_id))
                pipe.get(picture_key(style_id))
                exists, sealed = await pipe.execute()
        if not exists:
            raise not_found(style_id, param=param)
        try:
            return unseal(PICTURE, sealed or b"")
        except ValueError as error:
            raise damaged(style_id, "picture", error) from error

    async def _rebuild(self, style_id: str, size: Size) -> StyleFeature:
        content = await self._picture(style_id, param="style")
        try:
            picture = await asyncio.to_thread(picture_from_content, content)
        except ValueError as error:
            raise damaged(style_id, "picture", error) from error
        return await self._extract(picture, size)

    def _check(self, style_id: str, *, param: str | None = None) -> None:
        if not is_style_id(style_id, tenant=self._tenant):
            raise not_found(style_id, param=param)


def _read_record(style_id: str, fields: dict[bytes, bytes]) -> Style:
    try:
        return from_hash(style_id, fields)
    except ValueError as error:
        raise damaged(style_id, "record", error) from error
