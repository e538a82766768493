"""Images: draw a prompt, in a style when there is one."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.application.generate import ImageJob, Order, explain, in_base64, usage_of
from service.application.specs import each_style, image_specs, native_size, require_drawable
from service.application.stylings import require_stylable, style_answered, styling_of
from service.batching.priority import Priority
from service.http.content_negotiation import Form, json_only, wanted_form
from service.http.dependencies import Parts, ReadyParts
from service.http.disconnect import cancel_on_disconnect
from service.http.middleware.idempotency import IDEMPOTENT
from service.http.middleware.rate_limits import Allowance, allowance
from service.http.middleware.telemetry import RequestTrace, account
from service.http.middleware.timeout import deadline
from service.http.openapi import examples, responses
from service.http.schemas.images import GeneratedImage, GenerationRequest, GenerationResponse
from service.http.sse import EventStream
from service.http.streaming import ImageStream
from service.media.images import OutputFormat
from service.model.engine.types import Styling

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=GenerationResponse,
    responses=responses.GENERATE,
    dependencies=[Depends(json_only), IDEMPOTENT],
)
async def generate(
    request: Request,
    body: Annotated[GenerationRequest, Body(openapi_examples=examples.GENERATIONS)],
    parts: ReadyParts,
    account: Annotated[RequestTrace, Depends(account)],
    allowance: Annotated[Allowance, Depends(allowance)],
    due: Annotated[float | None, Depends(deadline)],
) -> Response:
    """Draw `n` images. When `Accept` is an image type and `n` is 1, the answer is the image itself.

    With `stream` the answer is server-sent events: `image_generation.partial_image`, then
    `image_generation.completed` for each image; or `error`, with the body of any failure.
    """
    form = wanted_form(request.headers.get("accept", ""), body)
    require_drawable(body, form.format, parts)
    require_stylable(body)
    await allowance.take("images", body.num_images)
    if parts.settings.log_prompts:
        account.fields["prompt"] = body.prompt
    order = await cancel_on_disconnect(request, _order(parts, body, form.format, account, due))
    if body.stream:
        telling = ImageStream(parts, order, body.partial_images or 0, account)
        ping_seconds = parts.settings.ping_seconds
        return EventStream(telling.events(), close=telling.close, ping_seconds=ping_seconds, account=account)
    jobs, files = await cancel_on_disconnect(request, _illustrate(parts, order, account))
    return _raw(parts, jobs[0], files[0], form) if form.is_raw else _answer(parts, order, jobs, files, body)


async def _order(
    parts: Parts, body: GenerationRequest, output: OutputFormat, account: RequestTrace, due: float | None
) -> Order:
    columns = []  # the images of one style, seed by seed
    for index, single in enumerate(each_style(body)):
        param = "style" if body.styles_each is None else f"styles_each.{index}"
        specs = image_specs(single, await _styling(parts, single, param, account), parts.generator)
        styled = style_answered(single, parts.generator.alpha)
        columns.append([(spec, styled) for spec in specs])
    # Images of one seed side by side: should a batch not hold all, it holds those that share a content path.
    images = [image for row in zip(*columns, strict=True) for image in row]
    return Order(
        specs=tuple(spec for spec, _ in images),
        styled=tuple(styled for _, styled in images),
        output=output,
        compression=body.output_compression,
        deadline=due,
        priority=Priority(body.priority),
    )


async def _illustrate(
    parts: Parts, order: Order, account: RequestTrace
) -> tuple[list[ImageJob], list[bytes]]:
    """The finished jobs and their image files. However it ends, no job is left behind in the queue."""
    began = account.clock()
    jobs = order.submit(parts, order.specs)
    try:
        drawings = await asyncio.gather(*(job.future for job in jobs))
    finally:
        for job in jobs:
            job.future.cancel()
    explain(jobs, account.clock() - began, account)
    with account.stage("encode"):
        files = await asyncio.gather(*(order.encode(parts, drawing.image) for drawing in drawings))
    parts.metrics.images.inc(len(files))
    return jobs, files


def _raw(parts: Parts, job: ImageJob, file: bytes, form: Form) -> Response:
    headers = {
        "X-Seed": str(job.input.seed),
        "X-Quality": parts.generator.qualities.name_of(job.input.shortcuts).value,
        "X-Content-Type-Options": "nosniff",
    }
    if warnings := job.future.result().warnings:
        headers["X-Warnings"] = "; ".join(warnings).encode("ascii", "replace").decode()
    return Response(file, media_type=f"image/{form.format.value}", headers=headers)


def _answer(
    parts: Parts, order: Order, jobs: list[ImageJob], files: list[bytes], body: GenerationRequest
) -> Response:
    drawings = [job.future.result() for job in jobs]
    warnings = sorted({warning for drawing in drawings for warning in drawing.warnings})
    images = [
        GeneratedImage(
            b64_json=in_base64(file), seed=spec.seed, style=styled.style if body.styles_each else None
        )
        for file, spec, styled in zip(files, order.specs, order.styled, strict=True)
    ]
    styled = style_answered(body, parts.generator.alpha)
    answer = GenerationResponse(
        created=int(time.time()),
        data=images,
        model=parts.generator.name,
        size=str(order.specs[0].size),
        output_format=order.output.value,
        quality=order.quality(parts).value,
        usage=usage_of(drawings),
        style=styled.style,
        styles=styled.styles,
        strength=styled.strength,
        alpha=styled.alpha,
        warnings=warnings or None,
    )
    return JSONResponse(answer.model_dump(exclude_none=True))


async def _styling(
    parts: Parts, body: GenerationRequest, param: str, account: RequestTrace
) -> Styling | None:
    if body.style is None and body.styles is None:
        return None
    with account.stage("style"), parts.metrics.stage_duration_seconds.labels(stage="style").time():
        return await styling_of(parts, body, native_size(body, parts.generator), param=param)
