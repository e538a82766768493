"""StyleStore: styles in Redis. Records and pictures last; features are a cache that can be rebuilt."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from service.errors import InvalidRequest, StoreUnavailable
from service.media.images import picture_from_content
from service.stage_timer import StageTimer
from service.storage.checksummed import FEATURE, seal
from service.storage.client import connect, reaching_store
from service.storage.schema import MAX_PICTURES, index_key
from service.storage.single_flight import SingleFlight
from service.styles.analysis import reading_of
from service.styles.feature_cache import FEATURE_SECONDS, CodedFeatures, FeatureCache
from service.styles.record import (
    NAMELESS,
    Style,
    damaged,
    is_style_id,
    no_picture,
    not_found,
    reading_field,
    style_id_of,
)
from service.styles.repository import StyleRepository
from service.styles.style_code import StyleCodes, is_code

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from service.media.images import Picture
    from service.metrics import Metrics
    from service.model.schedule import Size
    from service.model.style.feature import StyleFeature
    from service.model.style.tokens import StyleTokens
    from service.styles.extractor import StyleExtractor, StyleText

__all__ = ["MAX_PICTURES", "Page", "StyleStore", "connect"]


@dataclass(frozen=True, slots=True)
class Page:
    styles: tuple[Style, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A field that a change leaves as it is."""


UNCHANGED = Unchanged()


class StyleStore:
    """The styles of one tenant: at first those of the tenant without a name.

    Every method may raise StoreUnavailable (Redis is away or refuses); those that take an ID, StyleNotFound;
    those that read a record or a picture, StyleDamaged. Where a style code is
    read, InvalidRequest says what is wrong with it. Errors of `reader` pass through.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        reader: StyleExtractor,
        metrics: Metrics,
        max_hot: int = 512,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._tenant = NAMELESS
        self._reader = reader
        self._metrics = metrics
        self._clock = clock
        self.extractions: SingleFlight[str, tuple[StyleFeature, StageTimer]] = SingleFlight()
        self._archive = StyleRepository(redis, fingerprint=reader.fingerprint, metrics=metrics)
        self._codes = StyleCodes(reader.name, reader.fingerprint, reader.check_tokens)
        self._coded = CodedFeatures(self._codes, reader, metrics=metrics, max_hot=max_hot)
        self._features = FeatureCache(
            redis,
            rebuild=self._rebuild,
            fingerprint=reader.fingerprint,
            schedule_name=reader.schedule_name,
            metrics=metrics,
            max_hot=max_hot,
            clock=clock,
        )

    def of(self, tenant: str) -> StyleStore:
        """The same store as this tenant sees it: the styles of others are not there."""
        seen = copy.copy(self)  # the connection, the features in memory and the work in flight are shared
        seen._tenant = tenant
        return seen

    async def create(
        self,
        *pictures: Picture,
        name: str | None,
        metadata: Mapping[str, str] | None = None,
        stages: StageTimer | None = None,
    ) -> tuple[Style, bool]:
        """The style of these pictures, up to MAX_PICTURES, and whether it is new. The same picture twice
        counts once. A style that exists keeps its name and metadata; one whose record or picture is damaged
        is written anew. Nothing is written until its feature has been extracted. Where the time goes is told
        to `stages`.
        """
        distinct = list({picture.digest: picture for picture in pictures}.values())
        assert 1 <= len(distinct) <= MAX_PICTURES
        draft = Style(
            id=self._id_of([picture.digest for picture in distinct]),
            name=name,
            created=int(self._clock()),
            num_images=len(distinct),
            image_width=distinct[0].width,
            image_height=distinct[0].height,
            image_media_type=distinct[0].media_type,
            metadata=metadata or {},
        )

        async def extract(stages: StageTimer) -> StyleFeature:
            return await self._extract(distinct, self._reader.style_size, stages)

        contents = [picture.content for picture in distinct]
        return await self._create(draft, contents, extract, stages or StageTimer())

    async def create_from_words(
        self,
        words: StyleText,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None = None,
        stages: StageTimer | None = None,
    ) -> tuple[Style, bool]:
        """As `create`, from words alone."""
        draft = Style(
            id=self._id_of(words=words),
            name=name,
            created=int(self._clock()),
            num_images=0,
            metadata=metadata or {},
            words=words,
        )

        async def imagine(stages: StageTimer) -> StyleFeature:
            return await self._reader.imagine(words, stages)

        return await self._create(draft, [], imagine, stages or StageTimer())

    async def create_from_code(
        self,
        code: str,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None = None,
        stages: StageTimer | None = None,
    ) -> tuple[Style, bool]:
        """As `create`, from a style code: the style has no picture here."""
        bits = self._codes.read(code, param="code")
        draft = Style(
            id=self._id_of(code=code),
            name=name,
            created=int(self._clock()),
            num_images=bits.num_images,
            metadata=metadata or {},
        )

        async def restore(stages: StageTimer) -> StyleFeature:
            with stages.stage("decompose"):
                return self._reader.restore(bits, self._reader.style_size)

        return await self._create(draft, [], restore, stages or StageTimer())

    async def get(self, style: str) -> Style:
        """The style of an ID, or what a style code says of itself. One that this model has not read yet, from
        an earlier version or another model, is read now.
        """
        if is_code(style):
            feature = await self._coded.get(style, self._reader.style_size, param=None)
            return Style(
                style,
                None,
                None,
                feature.num_images,
                reading=reading_of(feature, self._codes, self._reader.agreement(feature)),
            )
        self._check(style)
        return await self._with_reading(await self._archive.read(style))

    async def list(self, *, limit: int, after: str | None, order: Literal["asc", "desc"]) -> Page:
        """Up to `limit` styles by creation, from the one after `after`. InvalidRequest when that is unknown.
        Styles with a damaged record are left out, and logged.
        """
        styles: list[Style] = []
        cursor, ids = after, await self._ids(after, limit + 1, order)
        if ids is None:
            raise InvalidRequest(
                f"There is no style {(after or '')[:64]!r} to continue after. Give the last ID of the page "
                "before, or start again without `after`.",
                param="after",
            )
        while ids:
            styles += await self._archive.read_many(ids)
            if len(styles) > limit:
                break
            cursor = ids[-1]
            ids = await self._ids(cursor, limit + 1, order)
        return Page(tuple(styles[:limit]), has_more=len(styles) > limit)

    async def change(
        self,
        style_id: str,
        *,
        name: str | Unchanged | None = UNCHANGED,
        metadata: Mapping[str, str] | Unchanged | None = UNCHANGED,
    ) -> Style:
        """The style with another name, other metadata (all of it) or, for None, without."""
        self._check(style_id)
        changes: dict[str, str | None] = {}
        if not isinstance(name, Unchanged):
            changes["name"] = name
        if not isinstance(metadata, Unchanged):
            changes["metadata"] = json.dumps(dict(metadata)) if metadata else None
        return await self._with_reading(await self._archive.change(style_id, changes))

    async def picture(self, style_id: str, number: int = 0) -> bytes:
        """A style image as stored: bounded, re-encoded, of the record's `image_media_type`. StyleNotFound,
        with a code of its own, when the style has none of this number.
        """
        self._check(style_id)
        style = await self._archive.read(style_id)
        num_pictures = style.num_images if style.source == "images" else 0
        if number >= num_pictures:
            raise no_picture(style_id, number, num_pictures)
        return await self._archive.picture(style_id, number)

    async def delete(self, style_id: str) -> None:
        """Removes the record, the pictures, and the features of every model and schedule."""
        self._check(style_id)
        was_there = await self._archive.remove(style_id, index=index_key(self._tenant))
        self._features.forget(style_id)
        if not was_there:
            raise not_found(style_id)

    async def feature(self, style: str, size: Size, *, param: str = "style") -> StyleFeature:
        """Of a style ID or a style code, for the schedule of `size`. One that is hot needs no Redis, and a
        code never does; one that is lost is rebuilt, once for all who ask meanwhile.
        """
        if is_code(style):
            return await self._coded.get(style, size, param=param)
        self._check(style, param=param)
        return await self._features.get(style, size, param=param)

    async def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            with reaching_store(self._metrics):
                return bool(await self._redis.ping())
        except StoreUnavailable:
            return False

    async def _create(
        self,
        draft: Style,
        contents: Sequence[bytes],
        work: Callable[[StageTimer], Coroutine[Any, Any, StyleFeature]],
        stages: StageTimer,
    ) -> tuple[Style, bool]:
        with stages.stage("store"):
            old, is_sound = await self._archive.examine(draft.id, num_pictures=len(contents))
            is_sound = is_sound and (old is None or self._has_sound_code(old))
        if old is not None and is_sound:
            with stages.stage("style"):
                return await self._with_reading(old), False
        size = self._reader.style_size
        feature = await self._worked(draft.id, work, stages)
        with stages.stage("decompose"):
            style = replace(
                old or draft, reading=reading_of(feature, self._codes, self._reader.agreement(feature))
            )
        with stages.stage("store"):
            winner = await self._archive.write(
                style,
                contents,
                index=index_key(self._tenant),
                feature=(self._features.key(style.id, size), seal(FEATURE, feature.to_bytes())),
                feature_seconds=FEATURE_SECONDS,
                replace=not is_sound,
            )
        self._features.put_hot(style.id, size, feature)
        return (style, old is None) if winner is None else (await self._with_reading(winner), False)

    async def _worked(
        self,
        style_id: str,
        work: Callable[[StageTimer], Coroutine[Any, Any, StyleFeature]],
        stages: StageTimer,
    ) -> StyleFeature:
        """The feature that `work` makes, once for all who send the same style meanwhile."""

        async def told() -> tuple[StyleFeature, StageTimer]:
            of_work = StageTimer(stages.clock)
            return await work(of_work), of_work

        began = stages.clock()
        feature, of_work = await self.extractions.run(style_id, told)
        stages.take(of_work, since=began)
        return feature

    def _has_sound_code(self, style: Style) -> bool:
        try:
            return style.reading is None or bool(self._codes.read(style.reading.code))
        except InvalidRequest as error:
            damaged(style.id, "code", ValueError(error.message))
            return False

    async def _with_reading(self, style: Style) -> Style:
        """With the reading of this model, read now and kept when the record has none."""
        if style.reading is not None or style.source == "code":  # which its own model alone can read
            return style
        feature = await self._features.get(style.id, self._reader.style_size, param=None)
        return await self._keep_reading(style, feature)

    async def _keep_reading(self, style: Style, feature: StyleFeature) -> Style:
        reading = reading_of(feature, self._codes, self._reader.agreement(feature))
        field = reading_field(self._reader.fingerprint)
        try:
            return await self._archive.change(style.id, {field: reading.to_json()})
        except StoreUnavailable:  # logged and counted; a full store is no reason to hide what was read
            return replace(style, reading=reading)

    async def _rebuild(self, style_id: str, size: Size, param: str | None) -> StyleFeature:
        style = await self._archive.read(style_id, param=param)
        if style.source == "images":
            contents = [
                await self._archive.picture(style_id, number, param=param)
                for number in range(style.num_images)
            ]
            try:
                pictures = [await asyncio.to_thread(picture_from_content, content) for content in contents]
            except ValueError as error:
                raise damaged(style_id, "picture", error) from error
            return await self._extract(pictures, size, StageTimer())
        return self._reader.restore(await self._bits_of(style, param), size)

    async def _bits_of(self, style: Style, param: str | None) -> StyleTokens:
        """Of a style without pictures. Once read, words are not read again: a style keeps its look."""
        if style.reading is not None:
            try:
                return self._codes.read(style.reading.code)
            except InvalidRequest as error:
                raise damaged(style.id, "code", ValueError(error.message)) from error
        if style.words is not None:
            feature = await self._reader.imagine(style.words, StageTimer())
            await self._keep_reading(style, feature)
            return feature.tokens
        raise InvalidRequest(
            f"Style {style.id} was made from a style code of another model, which {self._reader.name} cannot "
            "read. Use it where its model is served, or create a style from its picture.",
            param=param,
            code="foreign_style_code",
        )

    async def _extract(self, pictures: Sequence[Picture], size: Size, stages: StageTimer) -> StyleFeature:
        # One after the other: each holds its pixels, and the model reads one at a time.
        features = [await self._reader.extract(picture, size, stages) for picture in pictures]
        with stages.stage("decompose"):
            return self._reader.combine(features, size)

    async def _ids(self, after: str | None, limit: int, order: str) -> Sequence[str] | None:
        return await self._archive.ids(index_key(self._tenant), after=after, limit=limit, order=order)

    def _id_of(
        self, digests: Sequence[str] = (), *, words: StyleText | None = None, code: str | None = None
    ) -> str:
        return style_id_of(digests, words=words, code=code, tenant=self._tenant)

    def _check(self, style_id: str, *, param: str | None = None) -> None:
        if not is_style_id(style_id, tenant=self._tenant):
            raise not_found(style_id, param=param)
