"""Styles: made once from pictures, words or a style code; named ever after."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from starlette.datastructures import UploadFile

from service.errors import InvalidRequest
from service.http.content_negotiation import json_only
from service.http.dependencies import Parts, ReadyParts
from service.http.disconnect import cancel_on_disconnect
from service.http.middleware.idempotency import IDEMPOTENT
from service.http.middleware.telemetry import RequestTrace, account
from service.http.openapi import examples, responses
from service.http.schemas.styles import (
    StyleChange,
    StyleDeletedResponse,
    StyleImageQuery,
    StyleListResponse,
    StyleOfCode,
    StyleQuery,
    StyleResponse,
)
from service.http.style_uploads import BODY_SCHEMA, StyleBody, Upload, style_body
from service.media.images import Picture, read_picture
from service.metrics import STAGES_OF_REQUESTS
from service.stage_timer import StageTimer
from service.styles.extractor import StyleText
from service.styles.record import Style

router = APIRouter(tags=["styles"])

StyleIdPath = Annotated[str, Path(description="A style ID, `sty_...`.", examples=[examples.STYLE_ID])]
StyleReferencePath = Annotated[
    str, Path(description="A style ID, `sty_...`, or a style code.", examples=[examples.STYLE_ID])
]


@router.post(
    "/v1/styles",
    status_code=201,
    response_model=StyleResponse,
    responses=responses.CREATE_STYLE,
    openapi_extra=BODY_SCHEMA,
    dependencies=[IDEMPOTENT],
)
async def create_style(
    request: Request,
    response: Response,
    parts: ReadyParts,
    account: Annotated[RequestTrace, Depends(account)],
) -> StyleResponse:
    """201 for a new style; 200 for pictures, words or a code sent before: the ID is their own.

    A form with up to ten pictures makes one style of their mean. JSON makes a style from words, or keeps the
    style of a code.
    """
    async with style_body(request, account.stages) as body:
        style, is_new = await cancel_on_disconnect(request, _create(parts, body, account.stages))
    for stage, seconds in account.stages.seconds.items():
        if stage in STAGES_OF_REQUESTS:  # those of the model are counted where it runs
            parts.metrics.stage_duration_seconds.labels(stage=stage).observe(seconds)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/styles/{style.id}"
    return _response(style, parts)


@router.get("/v1/styles", responses=responses.LIST_STYLES)
async def list_styles(query: Annotated[StyleQuery, Query()], parts: ReadyParts) -> StyleListResponse:
    """The styles by time of creation; `after` continues where an answer with `has_more` ended.

    A list costs the model nothing: where it has not read a style yet, `is_read` says so, and there is neither
    code nor spectrum.
    """
    page = await parts.store.list(limit=query.limit, after=query.after, order=query.order)
    styles = [_response(style, parts) for style in page.styles]
    return StyleListResponse(
        data=styles,
        first_id=styles[0].id if styles else None,
        last_id=styles[-1].id if styles else None,
        has_more=page.has_more,
    )


@router.get("/v1/styles/{style_id}", responses=responses.GET_STYLE)
async def get_style(style_id: StyleReferencePath, parts: ReadyParts) -> StyleResponse:
    """A style by its ID, or what a style code holds."""
    return _response(await parts.store.get(style_id), parts)


@router.get(
    "/v1/styles/{style_id}/image",
    response_class=Response,
    responses=responses.GET_STYLE_IMAGE,
)
async def get_style_image(
    style_id: StyleIdPath, query: Annotated[StyleImageQuery, Query()], parts: ReadyParts
) -> Response:
    """A picture as it is kept: upright, in sRGB, bounded, lossless WebP."""
    content = await parts.store.picture(style_id, query.index)
    style = await parts.store.get(style_id)
    return Response(content, media_type=style.image_media_type, headers={"X-Content-Type-Options": "nosniff"})


@router.patch(
    "/v1/styles/{style_id}",
    dependencies=[Depends(json_only)],
    responses=responses.CHANGE_STYLE,
)
async def change_style(
    style_id: StyleIdPath,
    body: Annotated[StyleChange, Body(openapi_examples=examples.CHANGES)],
    parts: ReadyParts,
) -> StyleResponse:
    """Change its name or its metadata. Its look is its sources': for another, create another style."""
    given = {name: getattr(body, name) for name in body.model_fields_set}
    return _response(await parts.store.change(style_id, **given), parts)


@router.delete("/v1/styles/{style_id}", responses=responses.DELETE_STYLE)
async def delete_style(style_id: StyleIdPath, parts: ReadyParts) -> StyleDeletedResponse:
    """Forget the style: its record, its pictures and everything computed from them."""
    await parts.store.delete(style_id)
    return StyleDeletedResponse(id=style_id)


async def _create(parts: Parts, body: StyleBody, stages: StageTimer) -> tuple[Style, bool]:
    store, name, metadata = parts.store, body.name, body.metadata
    if isinstance(body, Upload):
        with parts.uploads.place():
            # One after the other: decoding takes memory, and other uploads want a thread, too.
            with stages.stage("picture"):
                pictures = [
                    await parts.off_loop(parts.decoding, _read, parts, image) for image in body.images
                ]
            return await store.create(*pictures, name=name, metadata=metadata, stages=stages)
    if isinstance(body, StyleOfCode):
        return await store.create_from_code(body.code, name=name, metadata=metadata, stages=stages)
    num_chars, bound = len(body.text), parts.settings.max_prompt_chars
    if num_chars > bound:
        raise InvalidRequest(f"text has {num_chars} characters; it may have {bound}.", param="text")
    words = StyleText(body.text.strip(), body.seed)
    return await store.create_from_text(words, name=name, metadata=metadata, stages=stages)


def _read(parts: Parts, image: UploadFile) -> Picture:
    # Read here, in the pool: uploads that wait for a thread stay in their spool files.
    settings = parts.settings
    return read_picture(
        image.file.read(), max_bytes=settings.max_upload_bytes, max_pixels=settings.max_upload_pixels
    )


def _response(style: Style, parts: Parts) -> StyleResponse:
    reading, words = style.analysis, style.source_text
    return StyleResponse(
        id=style.id,
        created=style.created,
        name=style.name,
        metadata=dict(style.metadata),
        source=style.source,
        num_images=style.num_images,
        image_width=style.image_width,
        image_height=style.image_height,
        text=None if words is None else words.text,
        seed=None if words is None else words.seed,
        model=parts.generator.name,
        fingerprint=parts.generator.fingerprint,
        is_read=reading is not None,
        code=None if reading is None else reading.code,
        singular_values=None if reading is None else list(reading.singular_values),
        dominance=None if reading is None else reading.dominance,
        agreement=None if reading is None else reading.agreement,
    )
