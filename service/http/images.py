"""Images: draw a prompt, in a style when there is one."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.batcher import Job
from service.http.accept import wanted_form
from service.http.bodies import json_only
from service.http.deadline import deadline
from service.http.observation import Account, account
from service.http.parts import Parts, ReadyParts
from service.http.presence import while_present
from service.http.schemas import GeneratedImage, GenerationRequest, GenerationResponse, StyleChoice
from service.http.specs import image_specs, native_size, require_drawable
from service.media import OutputFormat, encode_image
from service.model.generator import Drawing, ImageSpec, Styling, WeightedStyle
from service.priority import Priority

router = APIRouter(tags=["images"])


@router.post(
    "/v1/images/generations",
    response_model=GenerationResponse,
    responses={200: {"content": {f"image/{output.value}": {} for output in OutputFormat}}},
    dependencies=[Depends(json_only)],
)
async def generate(
    request: Request,
    body: GenerationRequest,
    parts: ReadyParts,
    account: Annotated[Account, Depends(account)],
    due: Annotated[float | None, Depends(deadline)],
) -> Response:
    """Draw `n` images. When `Accept` is an image type and `n` is 1, the answer is the image itself."""
    form = wanted_form(request.headers.get("accept", ""), body)
    require_drawable(body, form.format, parts)
    if parts.settings.log_prompts:
        account.fields["prompt"] = body.prompt
    jobs, files = await while_present(request, _illustrate(parts, body, form.format, account, due))
    specs, drawings = [job.input for job in jobs], [job.future.result() for job in jobs]
    warnings = sorted({warning for drawing in drawings for warning in drawing.warnings})
    if form.is_raw:
        headers = {"X-Seed": str(specs[0].seed), "X-Content-Type-Options": "nosniff"}
        if warnings:
            headers["X-Warnings"] = "; ".join(warnings).encode("ascii", "replace").decode()
        return Response(files[0], media_type=f"image/{form.format.value}", headers=headers)
    images = [
        GeneratedImage(b64_json=b64encode(file).decode(), seed=spec.seed)
        for file, spec in zip(files, specs, strict=True)
    ]
    answer = GenerationResponse(
        created=int(time.time()),
        data=images,
        model=parts.generator.name,
        size=str(specs[0].size),
        output_format=form.format.value,
        style=_styled_with(body, parts),
        warnings=warnings or None,
    )
    return JSONResponse(answer.model_dump(exclude_none=True))


async def _illustrate(
    parts: Parts, body: GenerationRequest, output: OutputFormat, account: Account, due: float | None
) -> tuple[list[Job[ImageSpec, Drawing]], list[bytes]]:
    """The finished jobs and their image files. However it ends, no job is left behind in the queue."""
    specs = image_specs(body, await _styling(parts, body, account), parts.generator)
    jobs = parts.generation.submit(specs, deadline=due, priority=Priority(body.priority))
    try:
        drawings = await asyncio.gather(*(job.future for job in jobs))
    finally:
        for job in jobs:
            job.future.cancel()
    _explain(jobs, account)
    with account.stage("encode"):
        files = await asyncio.gather(
            *(
                parts.off_loop(parts.encoding, _encode, parts, drawing, output, body.output_compression)
                for drawing in drawings
            )
        )
    parts.metrics.images.inc(len(files))
    return jobs, files


async def _styling(parts: Parts, body: GenerationRequest, account: Account) -> Styling | None:
    if body.style is None:
        return None
    with account.stage("style"), parts.metrics.stage_duration_seconds.labels(stage="style").time():
        feature = await parts.store.feature(body.style.id, native_size(body, parts.generator))
    return Styling((WeightedStyle(feature),), strength=body.style.strength, alpha=body.style.alpha)


def _encode(parts: Parts, drawing: Drawing, output: OutputFormat, compression: int | None) -> bytes:
    with parts.metrics.stage_duration_seconds.labels(stage="encode").time():
        return encode_image(drawing.image, output, compression=compression)


def _explain(jobs: list[Job[ImageSpec, Drawing]], account: Account) -> None:
    """Where the time went: of the job that waited longest, and of its batch."""
    last = max(jobs, key=lambda job: job.started_at or 0.0)
    timings = last.future.result().timings
    account.stage_seconds |= {
        "queue": (last.started_at or last.queued_at) - last.queued_at,
        "text": timings.text_seconds,
        "transformer": timings.transformer_seconds,
        "decode": timings.decode_seconds,
    }
    account.fields |= {"num_images": len(jobs), "num_jobs_in_batch": last.num_jobs_in_batch}


def _styled_with(body: GenerationRequest, parts: Parts) -> StyleChoice | None:
    if body.style is None:
        return None
    alpha = parts.generator.alpha if body.style.alpha is None else body.style.alpha
    return StyleChoice(id=body.style.id, strength=body.style.strength, alpha=alpha)
