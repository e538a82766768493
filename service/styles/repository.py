"""StyleRepository: what lasts of a style in Redis, its record and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from service.storage.checksummed import PICTURE, seal, unseal
from service.storage.client import reaching_store
from service.storage.schema import (
    CHANGE,
    CREATE,
    DELETE,
    LIST,
    MAX_PICTURES,
    SEQUENCE,
    features_key,
    picture_key,
    record_key,
)
from service.styles.record import Style, damaged, from_hash, not_found, to_hash

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from service.metrics import Metrics


class StyleRepository:
    """Records are read with the reading of the model that has `fingerprint`. Every method may raise
    StoreUnavailable; those that read one style, StyleNotFound and StyleDamaged.
    """

    def __init__(self, redis: Redis, *, fingerprint: str, metrics: Metrics) -> None:
        self._redis = redis
        self._fingerprint = fingerprint
        self._metrics = metrics
        self._create = redis.register_script(CREATE)
        self._change = redis.register_script(CHANGE)
        self._delete = redis.register_script(DELETE)
        self._list = redis.register_script(LIST)

    async def examine(self, style_id: str, *, num_pictures: int) -> tuple[Style | None, bool]:
        """The record, if there is one that can be read, and whether what is there is sound."""
        with reaching_store(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hgetall(record_key(style_id))
                for index in range(num_pictures):
                    pipe.get(picture_key(style_id, index))
                fields, *sealed = await pipe.execute()
        if not fields:
            return None, True
        style = None
        try:
            style = self._from_hash(style_id, fields)
            for each in sealed:
                unseal(PICTURE, each or b"")
        except ValueError as error:
            damaged(style_id, "record" if style is None else "picture", error)
            return style, False
        return style, True

    async def write(
        self,
        style: Style,
        pictures: Sequence[bytes],
        *,
        index: str,
        feature: tuple[str, bytes],
        feature_seconds: int,
        replace: bool,
    ) -> Style | None:
        """None when it has been written, with its sealed feature under that key; else the style that another
        request wrote first.
        """
        feature_key, sealed_feature = feature
        record = [part for field in to_hash(style, self._fingerprint).items() for part in field]
        picture_keys = [picture_key(style.id, number) for number in range(len(pictures))]
        with reaching_store(self._metrics):
            fields = await self._create(
                keys=[
                    record_key(style.id),
                    feature_key,
                    features_key(style.id),
                    index,
                    SEQUENCE,
                    *picture_keys,
                ],
                args=[
                    style.id,
                    sealed_feature,
                    feature_seconds,
                    "replace" if replace else "",
                    *(seal(PICTURE, picture) for picture in pictures),
                    *record,
                ],
            )
        return self._of_pairs(style.id, fields) if fields else None

    async def read(self, style_id: str, *, param: str | None = None) -> Style:
        with reaching_store(self._metrics):
            fields = await self._redis.hgetall(record_key(style_id))
        if not fields:
            raise not_found(style_id, param=param)
        return self._read(style_id, cast(dict[bytes, bytes], fields))  # connect() decodes nothing

    async def read_many(self, style_ids: Sequence[str]) -> Sequence[Style]:
        """Those that are there and can be read, in order; damaged ones are logged."""
        with reaching_store(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                for style_id in style_ids:
                    pipe.hgetall(record_key(style_id))
                records = await pipe.execute()
        styles = []
        for style_id, fields in zip(style_ids, records, strict=True):
            if fields:  # else deleted since the index was read
                try:
                    styles.append(self._from_hash(style_id, fields))
                except ValueError as error:
                    damaged(style_id, "record", error)
        return styles

    async def change(self, style_id: str, changes: Mapping[str, str | None]) -> Style:
        """Set these fields of the record, or remove those that are None."""
        given = [part for name, value in changes.items() if value is not None for part in (name, value)]
        removed = [name for name, value in changes.items() if value is None]
        with reaching_store(self._metrics):
            fields = await self._change(keys=[record_key(style_id)], args=[len(given), *given, *removed])
        if fields is None:
            raise not_found(style_id)
        return self._of_pairs(style_id, fields)

    async def picture(self, style_id: str, number: int, *, param: str | None = None) -> bytes:
        """The content of one style image, as stored."""
        with reaching_store(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.exists(record_key(style_id))
                pipe.get(picture_key(style_id, number))
                exists, sealed = await pipe.execute()
        if not exists:
            raise not_found(style_id, param=param)
        try:
            return unseal(PICTURE, sealed or b"")
        except ValueError as error:
            raise damaged(style_id, "picture", error) from error

    async def ids(self, index: str, *, after: str | None, limit: int, order: str) -> Sequence[str] | None:
        """IDs by creation; None when the one to continue after is not there."""
        with reaching_store(self._metrics):
            ids = await self._list(keys=[index], args=[after or "", limit, order])
        return None if ids is None else [id.decode() for id in ids]

    async def remove(self, style_id: str, *, index: str) -> bool:
        """Whether there was anything: the record, the pictures, the features of every model and schedule."""
        pictures = [picture_key(style_id, number) for number in range(MAX_PICTURES)]
        with reaching_store(self._metrics):
            num_removed = await self._delete(
                keys=[index, features_key(style_id), record_key(style_id), *pictures], args=[style_id]
            )
        return bool(num_removed)

    def _of_pairs(self, style_id: str, fields: Sequence[bytes]) -> Style:
        return self._read(style_id, dict(zip(fields[::2], fields[1::2], strict=True)))

    def _read(self, style_id: str, fields: Mapping[bytes, bytes]) -> Style:
        try:
            return self._from_hash(style_id, fields)
        except ValueError as error:
            raise damaged(style_id, "record", error) from error

    def _from_hash(self, style_id: str, fields: Mapping[bytes, bytes]) -> Style:
        return from_hash(style_id, fields, self._fingerprint)
