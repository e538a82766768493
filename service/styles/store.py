"""StyleStore: the styles of a tenant. Records and pictures are durable; features are a cache that can be
rebuilt.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from redis.asyncio import Redis

from service.errors import InvalidRequest, StoreUnavailable
from service.media.images import Picture, picture_from_content
from service.metrics import Metrics
from service.model.schedule import Size
from service.model.style.feature import StyleFeature
from service.model.style.tokens import StyleTokens
from service.stage_timer import StageTimer
from service.storage.client import StoreState, store_state
from service.storage.schema import MAX_PICTURES, NO_TENANT, Quota
from service.storage.single_flight import SingleFlight
from service.styles.feature_cache import FeatureCache, StyleExtractor
from service.styles.prompt_suffixes import PromptSuffixes
from service.styles.record import (
    Style,
    StyleAnalysis,
    StyleText,
    analyse_style,
    analysis_field,
    damaged,
    is_style_id,
    no_picture,
    not_found,
    style_id_of,
)
from service.styles.repository import StyleRepository
from service.styles.style_code import StyleCodec, is_code

StyleSource: TypeAlias = Sequence[Picture] | StyleText | str  # up to MAX_PICTURES pictures; a style code


@dataclass(frozen=True, slots=True)
class Page:
    styles: tuple[Style, ...]
    has_more: bool


class StyleStore:
    """The styles of one tenant, at first of NO_TENANT; `of` gives the styles of another.

    Each method may raise StoreUnavailable (Redis is unavailable or refuses); those that take an ID,
    StyleNotFound; those that read a record or a picture, StyleDamaged; those that take a style code,
    InvalidRequest. Errors of `extractor` pass through.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        extractor: StyleExtractor,
        metrics: Metrics,
        max_cached_features: int = 512,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._tenant, self._quota = NO_TENANT, Quota()
        self._extractor = extractor
        self._metrics = metrics
        self._clock = clock
        self.extractions = SingleFlight[str, tuple[StyleFeature, StageTimer]]()
        self._repository = StyleRepository(redis, fingerprint=extractor.fingerprint, metrics=metrics)
        self._codec = StyleCodec(extractor.name, extractor.fingerprint, extractor.check_tokens)
        self._features = FeatureCache(
            redis,
            extractor=extractor,
            codec=self._codec,
            rebuild=self._rebuild,
            metrics=metrics,
            max_features=max_cached_features,
            clock=clock,
        )
        self._suffixes = PromptSuffixes(redis, metrics=metrics, max_suffixes=max_cached_features, clock=clock)

    def of(self, tenant: str, quota: Quota | None = None) -> StyleStore:
        """The same store, showing the styles of this tenant alone, which may take as much as `quota` says."""
        store = copy.copy(self)  # the connection, the cached features and the running work are shared
        store._tenant, store._quota = tenant, quota or Quota()
        return store

    async def create(
        self,
        source: StyleSource,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None = None,
        prompt_suffix: str | None = None,
        stages: StageTimer | None = None,
    ) -> tuple[Style, bool]:
        """The style, and whether it is new. The same picture twice counts once.

        A style that exists keeps its name, metadata and suffix; one whose record or picture is damaged is
        written again. Nothing is written until the feature has been extracted. StyleQuotaExceeded when the
        quota leaves no room for a new one. `stages` is given the time of each stage.
        """
        if not isinstance(source, StyleText | str):
            source = list({picture.digest: picture for picture in source}.values())
        draft = replace(self._draft(source), name=name, metadata=metadata or {}, prompt_suffix=prompt_suffix)
        stages = stages or StageTimer()
        contents = [] if isinstance(source, StyleText | str) else [picture.content for picture in source]
        with stages.stage("store"):
            existing, is_intact = await self._repository.examine(draft.id, num_pictures=len(contents))
            is_intact = is_intact and (existing is None or self._has_intact_code(existing))
        if existing is not None and is_intact:
            with stages.stage("style"):
                return await self._analysed(existing), False
        if existing is None:  # before the model works for it; the write decides
            await self._repository.require_room(self._tenant, self._quota, sum(map(len, contents)))
        feature = await self._extract_once(draft.id, source, stages)
        with stages.stage("decompose"):
            style = replace(existing or draft, analysis=self._analysis_of(feature))
        with stages.stage("store"), self._features.loading(style.id) as loading:
            earlier = await self._repository.write(
                style,
                contents,
                tenant=self._tenant,
                quota=self._quota,
                feature_key=self._features.redis_key(style.id, self._extractor.style_size),
                feature=feature.to_bytes(),
                replace=not is_intact,
            )
            self._features.put(loading, self._extractor.style_size, feature)
        self._suffixes.put(style.id, (earlier or style).prompt_suffix)
        return (style, existing is None) if earlier is None else (await self._analysed(earlier), False)

    async def code_of(self, pictures: Sequence[Picture]) -> str:
        """The style code of pictures that are not kept."""
        feature = await self._extract(pictures, self._extractor.style_size, StageTimer())
        return self._codec.write(feature.tokens)

    async def get(self, style: str) -> Style:
        """The style of an ID, or what a style code says of itself. A style that this model has not analysed
        yet (an earlier version or another model wrote it) is analysed now.
        """
        if is_code(style):
            feature = self._features.get_of_code(style, self._extractor.style_size, param=None)
            return Style(style, None, None, feature.num_images, analysis=self._analysis_of(feature))
        self._check(style)
        return await self._analysed(await self._repository.read(style))

    async def list(self, *, limit: int, after: str | None, order: Literal["asc", "desc"]) -> Page:
        """Up to `limit` styles by creation, starting after `after`. InvalidRequest when that is unknown.
        Styles with a damaged record are left out, and logged.
        """
        styles: list[Style] = []
        cursor = after
        while ids := await self._repository.ids(self._tenant, after=cursor, limit=limit + 1, order=order):
            styles += await self._repository.read_many(ids)
            if len(styles) > limit:
                break
            cursor = ids[-1]
        if ids is None and cursor == after:
            raise InvalidRequest(
                f"There is no style {(after or '')[:64]!r} to continue after. Give the last ID of the page "
                "before, or start again without `after`.",
                param="after",
            )
        return Page(tuple(styles[:limit]), has_more=len(styles) > limit)

    async def change(self, style_id: str, changes: Mapping[str, str | Mapping[str, str] | None]) -> Style:
        """The style with another `name`, `prompt_suffix` or `metadata` (all of it); None removes it.
        StyleQuotaExceeded when they are longer and the quota leaves no room.
        """
        self._check(style_id)
        fields = {
            field: value if isinstance(value, str) else json.dumps(dict(value)) if value else None
            for field, value in changes.items()
        }
        changed = await self._repository.change(style_id, fields, tenant=self._tenant, quota=self._quota)
        self._suffixes.put(style_id, changed.prompt_suffix)
        return await self._analysed(changed)

    async def picture(self, style_id: str, number: int = 0) -> bytes:
        """A style image as stored: bounded, re-encoded, of the record's `image_media_type`. StyleNotFound,
        with a code of its own, when the style has no picture of this number.
        """
        self._check(style_id)
        style = await self._repository.read(style_id)
        num_pictures = style.num_images if style.source == "images" else 0
        if number >= num_pictures:
            raise no_picture(style_id, number, num_pictures)
        return await self._repository.picture(style_id, number)

    async def delete(self, style_id: str) -> None:
        """Delete the record, the pictures, and the features of all models and schedules."""
        self._check(style_id)
        existed = await self._repository.remove(style_id, tenant=self._tenant)
        self._features.forget(style_id)
        self._suffixes.forget(style_id)
        if not existed:
            raise not_found(style_id)

    async def feature(self, style: str, size: Size, *, param: str = "style") -> StyleFeature:
        """The feature of a style ID or a style code, for the schedule of `size`. A cached feature and a code
        need no Redis; a lost feature is rebuilt, once for all concurrent requests.
        """
        if is_code(style):
            return self._features.get_of_code(style, size, param=param)
        self._check(style, param=param)
        return await self._features.get(style, size, param=param)

    async def require(self, style: str, *, param: str = "style") -> None:
        """Nothing, where a style that is drawn later can be used now."""
        if is_code(style):
            self._features.get_of_code(style, self._extractor.style_size, param=param)
        else:
            self._check(style, param=param)
            await self._repository.read(style, param=param)

    async def prompt_suffix(self, style: str) -> str | None:
        """The words that a style adds to prompts; None for a style code, which holds none. For a style whose
        `feature` has been found.
        """
        return None if is_code(style) else await self._suffixes.get(style)

    async def state(self) -> StoreState:
        """Whether Redis responds, and takes changes."""
        return await store_state(self._redis, self._metrics)

    def _draft(self, source: StyleSource) -> Style:
        now, tenant = int(self._clock()), self._tenant
        if isinstance(source, StyleText):
            return Style(style_id_of(text=source, tenant=tenant), None, now, num_images=0, source_text=source)
        if isinstance(source, str):
            num_images = self._codec.read(source, param="code").num_images
            return Style(style_id_of(code=source, tenant=tenant), None, now, num_images)
        assert 1 <= len(source) <= MAX_PICTURES
        return Style(
            style_id_of([picture.digest for picture in source], tenant=tenant),
            None,
            now,
            len(source),
            image_width=source[0].width,
            image_height=source[0].height,
            image_media_type=source[0].media_type,
        )

    async def _extract_once(self, style_id: str, source: StyleSource, stages: StageTimer) -> StyleFeature:
        """The feature, extracted once for all concurrent requests with the same style."""

        async def timed() -> tuple[StyleFeature, StageTimer]:
            its_stages = StageTimer(stages.clock)
            return await self._extract(source, self._extractor.style_size, its_stages), its_stages

        began = stages.clock()
        feature, its_stages = await self.extractions.run(style_id, timed)
        stages.take(its_stages, since=began)
        return feature

    async def _extract(self, source: StyleSource, size: Size, stages: StageTimer) -> StyleFeature:
        if isinstance(source, StyleText):
            return await self._extractor.extract_text(source, stages)
        if isinstance(source, str):
            with stages.stage("decompose"):
                return self._extractor.restore(self._codec.read(source), size)
        # One after the other: each holds its pixels, and the model reads one at a time.
        features = [await self._extractor.extract(picture, size, stages) for picture in source]
        if len(features) == 1:
            return features[0]
        with stages.stage("decompose"):
            return self._extractor.combine(features, size)

    def _has_intact_code(self, style: Style) -> bool:
        try:
            return style.analysis is None or bool(self._codec.read(style.analysis.code))
        except InvalidRequest as error:
            damaged(style.id, "code", error)
            return False

    async def _analysed(self, style: Style) -> Style:
        """With this model's analysis, made and stored now when the record has none."""
        if style.analysis is not None or style.source == "code":  # which its own model alone can read
            return style
        feature = await self._features.get(style.id, self._extractor.style_size, param=None)
        return await self._analyse(style, feature)

    async def _analyse(self, style: Style, feature: StyleFeature) -> Style:
        analysis = self._analysis_of(feature)
        field = analysis_field(self._extractor.fingerprint, has_pictures=style.source == "images")
        try:
            changes = {field: analysis.to_json()}
            return await self._repository.change(style.id, changes, tenant=self._tenant, quota=Quota())
        except StoreUnavailable:  # logged and counted; a full store is no reason to hide the analysis
            return replace(style, analysis=analysis)

    async def _rebuild(self, style_id: str, size: Size, param: str | None) -> StyleFeature:
        style = await self._repository.read(style_id, param=param)
        if style.source != "images":
            return self._extractor.restore(await self._tokens_of(style, param), size)
        contents = [
            await self._repository.picture(style_id, number, param=param)
            for number in range(style.num_images)
        ]
        try:
            pictures = [await asyncio.to_thread(picture_from_content, content) for content in contents]
        except ValueError as error:
            raise damaged(style_id, "picture", error) from error
        return await self._extract(pictures, size, StageTimer())

    async def _tokens_of(self, style: Style, param: str | None) -> StyleTokens:
        """Of a style without pictures. A text is extracted only once, so that the style keeps its look."""
        if style.analysis is not None:
            try:
                return self._codec.read(style.analysis.code)
            except InvalidRequest as error:
                raise damaged(style.id, "code", error) from error
        if style.source_text is not None:
            feature = await self._extractor.extract_text(style.source_text, StageTimer())
            await self._analyse(style, feature)
            return feature.tokens
        raise InvalidRequest(
            f"Style {style.id} was made from a style code of another model, which {self._extractor.name} "
            "cannot read. Use it where its model is served, or create a style from its picture.",
            param=param,
            code="foreign_style_code",
        )

    def _analysis_of(self, feature: StyleFeature) -> StyleAnalysis:
        return analyse_style(feature, self._codec, self._extractor.agreement(feature))

    def _check(self, style_id: str, *, param: str | None = None) -> None:
        if not is_style_id(style_id, tenant=self._tenant):
            raise not_found(style_id, param=param)
