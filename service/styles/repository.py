"""StyleRepository: what lasts of a style in Redis, its record and its pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import cast

from redis.asyncio import Redis

from service.errors import StyleDamaged
from service.metrics import Metrics
from service.storage.checksummed import FEATURE, PICTURE, add_checksum, verify_checksum
from service.storage.client import translate_redis_errors
from service.storage.schema import (
    CHANGE,
    CREATE,
    DELETE,
    FEATURE_SECONDS,
    LIST,
    MAX_PICTURES,
    NO_TENANT,
    REMOVED_SECONDS,
    RESTORE,
    SEQUENCE,
    USAGE,
    Quota,
    bytes_key,
    features_key,
    index_key,
    picture_key,
    record_key,
    removed_key,
)
from service.styles.record import Style, damaged, from_hash, not_found, over_quota, to_hash


class StyleRepository:
    """Records carry the analysis of the model that has `fingerprint`. Each method may raise
    StoreUnavailable; those that read one style, StyleNotFound and StyleDamaged.
    """

    def __init__(self, redis: Redis, *, fingerprint: str, metrics: Metrics) -> None:
        self._redis = redis
        self._fingerprint = fingerprint
        self._metrics = metrics
        self._create = redis.register_script(CREATE)
        self._change = redis.register_script(CHANGE)
        self._delete = redis.register_script(DELETE)
        self._usage = redis.register_script(USAGE)
        self._list = redis.register_script(LIST)
        self._restore = redis.register_script(RESTORE)

    async def examine(self, style_id: str, *, num_pictures: int) -> tuple[Style | None, bool]:
        """The record, if there is one that can be read, and whether record and pictures are intact."""
        with translate_redis_errors(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hgetall(record_key(style_id))
                for number in range(num_pictures):
                    pipe.get(picture_key(style_id, number))
                fields, *pictures = await pipe.execute()
        if not fields:
            return None, True
        style = None
        try:
            style = self._style(style_id, fields)
            for stored in pictures:
                _picture(style_id, stored)
        except StyleDamaged:  # already logged
            return style, False
        return style, True

    async def write(
        self,
        style: Style,
        pictures: Sequence[bytes],
        *,
        tenant: str,
        quota: Quota,
        feature_key: str,
        feature: bytes,
        replace: bool,
    ) -> Style | None:
        """Write a style with its pictures and its feature. Unless `replace`, a style that is already there
        is left as it is and returned; None when the style was written. StyleQuotaExceeded, with nothing
        written, when it has no room.
        """
        keys = [record_key(style.id), feature_key, features_key(style.id), index_key(tenant), SEQUENCE]
        keys += [bytes_key(tenant)]
        keys += [picture_key(style.id, number) for number in range(len(pictures))]
        args: list[str | bytes | int] = [style.id, add_checksum(FEATURE, feature), FEATURE_SECONDS]
        args += ["replace" if replace else "", *_bounds(quota)]
        args += [add_checksum(PICTURE, picture) for picture in pictures]
        args += [part for field in to_hash(style, self._fingerprint).items() for part in field]
        with translate_redis_errors(self._metrics):
            outcome, *found = await self._create(keys=keys, args=args)
        if outcome == 2:
            raise over_quota(found[0], found[1], quota)
        return self._style(style.id, _paired(*found)) if outcome == 1 else None

    async def require_room(self, tenant: str, quota: Quota, num_bytes: int) -> None:
        """StyleQuotaExceeded when another style of so many bytes has none, as things are now."""
        with translate_redis_errors(self._metrics):
            num_styles, total = await self._usage(keys=[index_key(tenant), bytes_key(tenant)])
        is_over = quota.styles is not None and num_styles + 1 > quota.styles
        if is_over or (quota.bytes is not None and total + num_bytes > quota.bytes):
            raise over_quota(num_styles, total, quota)

    async def read(self, style_id: str, *, param: str | None = None) -> Style:
        with translate_redis_errors(self._metrics):
            fields = await self._redis.hgetall(record_key(style_id))
        if not fields:
            raise not_found(style_id, param=param)
        return self._style(style_id, cast(dict[bytes, bytes], fields))  # connect() decodes nothing

    async def read_many(self, style_ids: Sequence[str]) -> Sequence[Style]:
        """Those that exist and can be read, in order; damaged ones are logged."""
        with translate_redis_errors(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                for style_id in style_ids:
                    pipe.hgetall(record_key(style_id))
                records = await pipe.execute()
        styles = []
        for style_id, fields in zip(style_ids, records, strict=True):
            if fields:  # else deleted since the index was read
                with contextlib.suppress(StyleDamaged):
                    styles.append(self._style(style_id, fields))
        return styles

    async def change(
        self, style_id: str, changes: Mapping[str, str | None], *, tenant: str, quota: Quota
    ) -> Style:
        """Set these fields of the record, or remove those that are None. StyleQuotaExceeded as in `write`."""
        to_set = [part for name, value in changes.items() if value is not None for part in (name, value)]
        to_remove = [name for name, value in changes.items() if value is None]
        keys = [record_key(style_id), index_key(tenant), bytes_key(tenant)]
        args = [style_id, _bounds(quota)[1], len(to_set), *to_set, *to_remove]
        with translate_redis_errors(self._metrics):
            reply = await self._change(keys=keys, args=args)
        if reply is None:
            raise not_found(style_id)
        outcome, *found = reply
        if outcome == 2:
            raise over_quota(found[0], found[1], quota)
        return self._style(style_id, _paired(*found))

    async def picture(self, style_id: str, number: int, *, param: str | None = None) -> bytes:
        """The content of one style image, as stored."""
        with translate_redis_errors(self._metrics):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.exists(record_key(style_id))
                pipe.get(picture_key(style_id, number))
                exists, stored = await pipe.execute()
        if not exists:
            raise not_found(style_id, param=param)
        return _picture(style_id, stored)

    async def ids(self, tenant: str, *, after: str | None, limit: int, order: str) -> Sequence[str] | None:
        """IDs in the order of their creation; None when there is no style `after`, nor was lately."""
        with translate_redis_errors(self._metrics):
            ids = await self._list(
                keys=[index_key(tenant), removed_key(after or "")], args=[after or "", limit, order]
            )
        return None if ids is None else [id.decode() for id in ids]

    async def remove(self, style_id: str, *, tenant: str) -> bool:
        """Remove the record, the pictures, and the features of all models; whether there was anything."""
        keys = [index_key(tenant), bytes_key(tenant), removed_key(style_id)]
        keys += [features_key(style_id), record_key(style_id)]
        keys += [picture_key(style_id, number) for number in range(MAX_PICTURES)]
        with translate_redis_errors(self._metrics):
            return bool(await self._delete(keys=keys, args=[style_id, REMOVED_SECONDS]))

    async def tenants(self) -> Sequence[str]:
        """All that have styles, NO_TENANT too."""
        with translate_redis_errors(self._metrics):
            keys = [key.decode() async for key in self._redis.scan_iter(f"{index_key(NO_TENANT)}*")]
        return sorted(key.removeprefix(index_key(NO_TENANT)).removeprefix(":") for key in keys)

    async def stored(self, style_id: str) -> tuple[Mapping[str, str], Sequence[bytes]] | None:
        """The fields of the record and the pictures, of one moment, both intact; None without the style."""
        with translate_redis_errors(self._metrics):
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hgetall(record_key(style_id))
                pipe.mget([picture_key(style_id, number) for number in range(MAX_PICTURES)])
                fields, pictures = await pipe.execute()
        if not fields:
            return None
        style = self._style(style_id, fields)
        num_pictures = style.num_images if style.source == "images" else 0
        contents = [_picture(style_id, stored) for stored in pictures[:num_pictures]]
        return {name.decode(): value.decode() for name, value in fields.items()}, contents

    async def restore(
        self,
        style_id: str,
        fields: Mapping[str, str],
        pictures: Sequence[bytes],
        *,
        tenant: str,
        replace: bool,
    ) -> bool:
        """Write what `stored` returned. Unless `replace`, a style that is there stays as it is, and the
        result is False.
        """
        keys = [record_key(style_id), index_key(tenant), SEQUENCE, bytes_key(tenant)]
        keys += [picture_key(style_id, number) for number in range(len(pictures))]
        args: list[str | bytes] = [style_id, "replace" if replace else ""]
        args += [add_checksum(PICTURE, picture) for picture in pictures]
        args += [part for field in fields.items() for part in field]
        with translate_redis_errors(self._metrics):
            return bool(await self._restore(keys=keys, args=args))

    def _style(self, style_id: str, fields: Mapping[bytes, bytes]) -> Style:
        try:
            return from_hash(style_id, fields, self._fingerprint)
        except ValueError as error:
            raise damaged(style_id, "record", error) from error


def _bounds(quota: Quota) -> list[int | str]:
    return ["" if bound is None else bound for bound in (quota.styles, quota.bytes)]


def _paired(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _picture(style_id: str, stored: bytes | None) -> bytes:
    try:
        return verify_checksum(PICTURE, stored or b"")
    except ValueError as error:
        raise damaged(style_id, "picture", error) from error
