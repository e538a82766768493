"""/v1/styles: create, list, get, change and delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response

from service.application.extract_style import Styles
from service.http.content_negotiation import json_only
from service.http.dependencies import ContextDep, cancel_on_disconnect
from service.http.middleware import idempotency
from service.http.openapi import examples, responses
from service.http.schemas.styles import (
    StyleChange,
    StyleDeletedResponse,
    StyleImageQuery,
    StyleListResponse,
    StyleQuery,
    StyleResponse,
)
from service.http.style_uploads import BODY_SCHEMA, style_body
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
    openapi_extra=BODY_SCHEMA | {"parameters": [idempotency.PARAMETER]},
)
async def create_style(request: Request, response: Response, context: ContextDep) -> StyleResponse:
    """201 for a new style; 200 for pictures, words or a code sent before: the ID is their own.

    A form with up to ten pictures makes one style of their mean. JSON makes a style from words, or keeps the
    style of a code.
    """
    styles = context.styles
    async with style_body(request, context.trace) as body:
        creation = styles.create(
            body.source(),
            context.trace,
            name=body.name,
            metadata=body.metadata,
            prompt_suffix=body.prompt_suffix,
        )
        style, is_new = await cancel_on_disconnect(request, creation)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/styles/{style.id}"
    return _response(style, styles)


@router.get("/v1/styles", responses=responses.LIST_STYLES)
async def list_styles(query: Annotated[StyleQuery, Query()], context: ContextDep) -> StyleListResponse:
    """The styles by time of creation; `after` continues where an answer with `has_more` ended.

    A list costs the model nothing: where it has not read a style yet, `is_read` says so, and there is neither
    code nor spectrum.
    """
    page = await context.styles.store.list(limit=query.limit, after=query.after, order=query.order)
    listed = [_response(style, context.styles) for style in page.styles]
    return StyleListResponse(
        data=listed,
        first_id=listed[0].id if listed else None,
        last_id=listed[-1].id if listed else None,
        has_more=page.has_more,
    )


@router.get("/v1/styles/{style_id}", responses=responses.GET_STYLE)
async def get_style(style_id: StyleReferencePath, context: ContextDep) -> StyleResponse:
    """A style by its ID, or what a style code holds."""
    return _response(await context.styles.store.get(style_id), context.styles)


@router.get(
    "/v1/styles/{style_id}/image",
    response_class=Response,
    responses=responses.GET_STYLE_IMAGE,
)
async def get_style_image(
    style_id: StyleIdPath, query: Annotated[StyleImageQuery, Query()], context: ContextDep
) -> Response:
    """A picture as it is kept: upright, in sRGB, bounded, lossless WebP."""
    content = await context.styles.store.picture(style_id, query.index)
    style = await context.styles.store.get(style_id)
    return Response(content, media_type=style.image_media_type, headers={"X-Content-Type-Options": "nosniff"})


@router.patch(
    "/v1/styles/{style_id}",
    dependencies=[Depends(json_only)],
    responses=responses.CHANGE_STYLE,
)
async def change_style(
    style_id: StyleIdPath,
    body: Annotated[StyleChange, Body(openapi_examples=examples.CHANGES)],
    context: ContextDep,
) -> StyleResponse:
    """Change its name, its metadata or its prompt suffix.

    Its look is its sources': for another, create another style.
    """
    changed = await context.styles.store.change(style_id, body.model_dump(exclude_unset=True))
    return _response(changed, context.styles)


@router.delete("/v1/styles/{style_id}", responses=responses.DELETE_STYLE)
async def delete_style(style_id: StyleIdPath, context: ContextDep) -> StyleDeletedResponse:
    """Forget the style: its record, its pictures and everything computed from them."""
    await context.styles.store.delete(style_id)
    return StyleDeletedResponse(id=style_id)


def _response(style: Style, styles: Styles) -> StyleResponse:
    analysis, text = style.analysis, style.source_text
    return StyleResponse(
        id=style.id,
        created=style.created,
        name=style.name,
        metadata=dict(style.metadata),
        prompt_suffix=style.prompt_suffix,
        source=style.source,
        num_images=style.num_images,
        image_width=style.image_width,
        image_height=style.image_height,
        text=None if text is None else text.text,
        seed=None if text is None else text.seed,
        warnings=[] if text is None else list(styles.warnings_of_text(text.text)),
        model=styles.model,
        fingerprint=styles.fingerprint,
        is_read=analysis is not None,
        code=None if analysis is None else analysis.code,
        singular_values=None if analysis is None else list(analysis.singular_values),
        dominance=None if analysis is None else analysis.dominance,
        agreement=None if analysis is None else analysis.agreement,
    )
