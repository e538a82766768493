"""POST /v1/images/generations and /edits: JSON, a raw image or server-sent events."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.application.caller import Caller
from service.application.generate import FinishedImage, Images, ImageUpdate, PlannedImage, PreviewImage
from service.application.job_worker import StartedJob, StartJob
from service.http import respond_async
from service.http.content_negotiation import json_only, wanted_form
from service.http.dependencies import Context, ContextDep, cancel_on_disconnect
from service.http.edit_forms import EDIT_BODY, edit_body
from service.http.middleware import idempotency, limits
from service.http.openapi import examples, responses
from service.http.schemas.edits import EditBody
from service.http.schemas.image_responses import (
    EDIT_EVENTS,
    GENERATION_EVENTS,
    Events,
    GeneratedImage,
    GenerationResponse,
    RegionUsed,
    Usage,
)
from service.http.schemas.images import GenerationBody, ImageBody
from service.http.schemas.style_choices import StyleChoice, WeightedChoice
from service.http.sse import Event, EventStream
from service.media.images import OutputFormat
from service.model.engine.types import Box
from service.model.schedule import Size
from service.stage_timer import RequestTrace

NATIVE_SIZE = "X-Native-Size"
NUM_PREVIEWS = 2  # of each image of a job, where it does not say how many
PARAMETERS = [idempotency.PARAMETER, limits.TIMEOUT_PARAMETER, respond_async.PARAMETER]
router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=GenerationResponse,
    responses=responses.GENERATE,
    dependencies=[Depends(json_only)],
    openapi_extra={"parameters": PARAMETERS},
)
async def generate(
    request: Request,
    body: Annotated[GenerationBody, Body(openapi_examples=examples.GENERATIONS)],
    context: ContextDep,
) -> Response:
    """Draw `n` images. When `Accept` is an image type and `n` is 1, the answer is the image itself.

    With `stream` the answer is server-sent events: `image_generation.partial_image`, then
    `image_generation.completed` for each image; or `error`, with the body of any failure. With `Prefer:
    respond-async` it is 202 and a job.
    """
    return await _answer(request, body, context, GENERATION_EVENTS)


@router.post(
    "/v1/images/edits",
    response_model=GenerationResponse,
    responses=responses.EDIT,
    openapi_extra=EDIT_BODY | {"parameters": PARAMETERS},
)
async def edit(request: Request, context: ContextDep) -> Response:
    """Restyle a picture, or draw inside a mask. A form with files, or JSON with pictures in base64.

    With a style the picture is drawn in it: `structure` says how much of its shapes and details stays. With a
    prompt alone the prompt is drawn over what stays. Outside a `mask` the picture's own pixels stay.

    The answer is that of a generation, or a job, as there; the events are `image_edit.partial_image` and
    `image_edit.completed`.
    """
    async with edit_body(request, context.trace) as body:
        return await _answer(request, body, context, EDIT_EVENTS)


async def _answer(request: Request, body: ImageBody, context: Context, events: Events) -> Response:
    """Draw what the body asks for, in the form that the client wants."""
    form = wanted_form(request.headers.get("accept", ""), body)
    wanted = body.to_request(form.format, context.deadline)
    images, trace = context.service.images, context.trace
    if respond_async.is_preferred(request):
        await images.check(wanted, context.caller, trace)
        return await respond_async.accept(request, context, body, is_raw=form.is_raw)
    model = images.generator.name
    if body.stream:
        stream = await cancel_on_disconnect(request, images.stream(wanted, context.caller, trace))
        to_event = partial(_event, events=events, body=body, model=model, trace=trace)
        ping_seconds = context.service.settings.ping_seconds
        answer = EventStream(stream.updates(), to_event, stream.close, ping_seconds=ping_seconds, trace=trace)
        answer.headers[NATIVE_SIZE] = str(stream.output.drawn)
        return answer
    drawn = await cancel_on_disconnect(request, images.generate(wanted, context.caller, trace))
    response = _raw(drawn[0], body) if form.is_raw else _json(drawn, body, model)
    response.headers[NATIVE_SIZE] = str(drawn[0].planned.output.drawn)
    return response


async def start_job(
    content: bytes, images: Images, caller: Caller, trace: RequestTrace, *, kind: type[ImageBody]
) -> StartedJob:
    """Begins to draw the body that `respond_async.accept` kept; the result is the answer in JSON."""
    body = await asyncio.to_thread(kind.model_validate_json, content)  # pictures in base64, perhaps
    num_previews = NUM_PREVIEWS if body.partial_images is None else body.partial_images
    body = body.model_copy(update={"partial_images": None})  # which would be ignored, and said to be
    wanted = replace(
        body.to_request(OutputFormat(body.output_format or "png"), None), num_previews=num_previews
    )
    stream = await images.stream(wanted, caller, trace)
    model = images.generator.name
    return StartedJob(
        stream, lambda drawn: _response(drawn, body, model).model_dump_json(exclude_none=True).encode()
    )


# What draws the jobs of each path of this router.
JOBS: Mapping[str, StartJob] = {
    "/v1/images/generations": partial(start_job, kind=GenerationBody),
    "/v1/images/edits": partial(start_job, kind=EditBody),
}


def _raw(image: FinishedImage, body: ImageBody) -> Response:
    headers = {
        "X-Seed": str(image.planned.spec.seed),
        "X-Quality": image.planned.quality.value,
        "X-Content-Type-Options": "nosniff",
    }
    if warnings := (*body.warnings, *image.warnings):
        headers["X-Warnings"] = "; ".join(warnings).encode("ascii", "replace").decode()
    return Response(image.file, media_type=f"image/{image.planned.output_format.value}", headers=headers)


def _json(images: Sequence[FinishedImage], body: ImageBody, model: str) -> Response:
    return JSONResponse(_response(images, body, model).model_dump(exclude_none=True))


def _response(images: Sequence[FinishedImage], body: ImageBody, model: str) -> GenerationResponse:
    data = [
        GeneratedImage(
            **_file(image, body),
            seed=image.planned.spec.seed,
            style=_fields(image.planned, body).get("style") if body.styles_each else None,
            revised_prompt=_revised_prompt(image.planned, body),
        )
        for image in images
    ]
    return GenerationResponse(
        created=int(time.time()),
        data=data,
        model=model,
        usage=Usage.of([image.drawing for image in images]),
        warnings=_warnings(images, body),
        **_fields(images[0].planned, body, has_style=not body.styles_each),
    )


def _event(update: ImageUpdate, *, events: Events, body: ImageBody, model: str, trace: RequestTrace) -> Event:
    planned = update.planned
    fields: dict[str, Any] = {
        "b64_json": b64encode(update.file).decode(),
        "created_at": int(time.time()),
        "image_index": planned.index,
        "seed": planned.spec.seed,
        "revised_prompt": _revised_prompt(planned, body),
        **_fields(planned, body),
    }
    if isinstance(update, PreviewImage):
        height, width = update.preview.image.shape[:2]
        return events.partial(
            **fields,
            step=update.preview.step,
            num_steps=update.preview.num_steps,
            partial_image_index=update.index,
            partial_size=str(planned.output.resized_to or Size(width, height)),
        )
    num_steps = len(update.drawing.timings.step_seconds)
    return events.completed(
        **fields,
        step=num_steps,
        num_steps=num_steps,
        model=model,
        usage=Usage.of([update.drawing]),
        warnings=_warnings([update], body),
        timings=_milliseconds(trace) if trace.step_seconds else None,
    )


def _file(image: FinishedImage, body: ImageBody) -> dict[str, str]:
    encoded = b64encode(image.file).decode()
    if body.response_format == "url":
        return {"url": f"data:image/{image.planned.output_format.value};base64,{encoded}"}
    return {"b64_json": encoded}


def _revised_prompt(planned: PlannedImage, body: ImageBody) -> str | None:
    return planned.spec.prompt if planned.spec.prompt != body.prompt else None


def _warnings(images: Sequence[FinishedImage], body: ImageBody) -> list[str] | None:
    """Each once, in the order of their causes."""
    of_images = (warning for image in images for warning in image.warnings)
    return list(dict.fromkeys([*body.warnings, *of_images])) or None


def _milliseconds(trace: RequestTrace) -> dict[str, float]:
    seconds = trace.seconds | {"total": trace.elapsed_seconds}
    return {stage: round(1000 * spent, 2) for stage, spent in seconds.items()}


def _fields(planned: PlannedImage, body: ImageBody, *, has_style: bool = True) -> dict[str, Any]:
    """What was drawn; the style in the form in which it was named, with every value that was used."""
    fields: dict[str, Any] = {
        "size": str(planned.output.size),
        "quality": planned.quality.value,
        "output_format": planned.output_format.value,
    }
    if planned.spec.edit is not None:
        fields["structure"] = planned.spec.edit.structure
    style = planned.style
    if style is None or not has_style:
        return fields
    if body.regions is not None:
        regions = [
            RegionUsed(style=term.id, strength=term.weight, box=_sides(term.area)) for term in style.terms
        ]
        return fields | {"regions": regions, "alpha": style.alpha}
    if body.styles is None and len(style.terms) == 1:
        return fields | {
            "style": StyleChoice(
                id=style.terms[0].id,
                strength=style.strength,
                alpha=style.alpha,
                box=_sides(style.terms[0].box),
            )
        }
    return fields | {
        "styles": [WeightedChoice(id=term.id, weight=term.weight) for term in style.terms],
        "strength": style.strength,
        "alpha": style.alpha,
    }


def _sides(area: object) -> list[float] | None:
    """Of a box; None for a mask, which is not sent back, and for everywhere."""
    return [area.left, area.top, area.right, area.bottom] if isinstance(area, Box) else None
