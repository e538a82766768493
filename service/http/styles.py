"""Styles: upload a picture once, name it ever after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.datastructures import FormData, UploadFile

from service.errors import InvalidRequest
from service.http.bodies import multipart_only
from service.http.parts import Parts, ReadyParts
from service.http.presence import while_present
from service.http.schemas import (
    MAX_NAME_CHARS,
    StyleDeletedResponse,
    StyleListResponse,
    StyleQuery,
    StyleResponse,
    unknown_field,
)
from service.http.spool import spooling
from service.media import Picture, read_picture
from service.styles.record import Style

router = APIRouter(tags=["styles"])

FIELDS = ["image", "name"]
FORM_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "PNG, JPEG, WebP or GIF.",
                        },
                        "name": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS},
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/styles",
    status_code=201,
    response_model=StyleResponse,
    responses={200: {"model": StyleResponse, "description": "This picture was uploaded before."}},
    openapi_extra=FORM_SCHEMA,
    dependencies=[Depends(multipart_only)],
)
async def create_style(request: Request, response: Response, parts: ReadyParts) -> StyleResponse:
    """201 for a new style, 200 when this picture was uploaded before: the ID is the picture's own."""
    async with _upload(request) as (image, name):
        style, is_new = await while_present(request, _create(parts, image, name))
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/styles/{style.id}"
    return _response(style)


@router.get("/v1/styles")
async def list_styles(query: Annotated[StyleQuery, Query()], parts: ReadyParts) -> StyleListResponse:
    """The styles by time of creation; `after` continues where an answer with `has_more` ended."""
    page = await parts.store.list(limit=query.limit, after=query.after, order=query.order)
    styles = [_response(style) for style in page.styles]
    return StyleListResponse(
        data=styles,
        first_id=styles[0].id if styles else None,
        last_id=styles[-1].id if styles else None,
        has_more=page.has_more,
    )


@router.get("/v1/styles/{style_id}")
async def get_style(style_id: str, parts: ReadyParts) -> StyleResponse:
    return _response(await parts.store.get(style_id))


@router.get(
    "/v1/styles/{style_id}/image", response_class=Response, responses={200: {"content": {"image/webp": {}}}}
)
async def get_style_image(style_id: str, parts: ReadyParts) -> Response:
    """The picture as it is kept: upright, in sRGB, bounded, lossless WebP."""
    style = await parts.store.get(style_id)
    content = await parts.store.picture(style_id)
    return Response(content, media_type=style.image_media_type, headers={"X-Content-Type-Options": "nosniff"})


@router.delete("/v1/styles/{style_id}")
async def delete_style(style_id: str, parts: ReadyParts) -> StyleDeletedResponse:
    """Forget the style: its record, its picture and everything computed from it."""
    await parts.store.delete(style_id)
    return StyleDeletedResponse(id=style_id)


async def _create(parts: Parts, image: UploadFile, name: str | None) -> tuple[Style, bool]:
    with parts.uploads.place():
        picture = await parts.off_loop(parts.decoding, _read, parts, image)
        return await parts.store.create(picture, name=name)


def _read(parts: Parts, image: UploadFile) -> Picture:
    # Read here, in the pool: uploads that wait for a thread stay in their spool files.
    settings = parts.settings
    return read_picture(
        image.file.read(), max_bytes=settings.max_upload_bytes, max_pixels=settings.max_upload_pixels
    )


@asynccontextmanager
async def _upload(request: Request) -> AsyncIterator[tuple[UploadFile, str | None]]:
    """The image and the name of the form; InvalidRequest when it holds anything else."""
    async with AsyncExitStack() as stack:
        with spooling():
            form = await stack.enter_async_context(
                request.form(max_files=2, max_fields=8, max_part_size=2**14)
            )
        for field in form:
            if field not in FIELDS:
                problem = unknown_field(field, FIELDS)
                raise InvalidRequest(problem.message(), param=field[:60], code=problem.type)
        yield _image(form), _name(form)


def _image(form: FormData) -> UploadFile:
    images = form.getlist("image")
    if len(images) > 1:
        raise InvalidRequest("A style is made of one image: send the field once.", param="image")
    if not images or not isinstance(images[0], UploadFile):
        raise InvalidRequest(
            "The form needs the file of a picture in the field image.",
            param="image",
            code="missing_required_parameter",
        )
    return images[0]


def _name(form: FormData) -> str | None:
    names = form.getlist("name")
    if not names:
        return None
    if len(names) > 1 or not isinstance(names[0], str) or not 1 <= len(names[0].strip()) <= MAX_NAME_CHARS:
        raise InvalidRequest(f"The name must be one text of 1 to {MAX_NAME_CHARS} characters.", param="name")
    return names[0].strip()


def _response(style: Style) -> StyleResponse:
    return StyleResponse(
        id=style.id,
        created=style.created,
        name=style.name,
        num_images=style.num_images,
        image_width=style.image_width,
        image_height=style.image_height,
    )
