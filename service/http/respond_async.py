"""`Prefer: respond-async` (RFC 7240): a request that is answered with a job, which is drawn later.

A route that draws adds PARAMETER and ACCEPTED to its document, returns `await accept(...)` where it
`is_preferred` once its body is checked, and has its path and a StartJob in JOBS of its router.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import Any

from fastapi import Request, Response

from service.access.idempotency_store import HEADER
from service.application.generation_request import MAX_SEED
from service.errors import InvalidRequest, NotAcceptable
from service.http.dependencies import Context
from service.http.schemas.jobs import JobBody, JobResponse

PARAMETER: dict[str, Any] = {  # of the OpenAPI document
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`respond-async`: the answer is 202 with a job, at once, and the images are drawn when no "
    "other request waits.",
    "schema": {"type": "string"},
}
APPLIED = {"Preference-Applied": "respond-async"}


def is_preferred(request: Request) -> bool:
    given = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(preference.partition(";")[0].strip() == "respond-async" for preference in given)


async def accept(request: Request, context: Context, body: JobBody, *, is_raw: bool) -> Response:
    """202 with the job that draws this body, which the caller has checked; `is_raw` as in Form."""
    if is_raw:
        raise NotAcceptable(
            "The answer to `Prefer: respond-async` is a job, in application/json, and so is its result: let "
            "Accept allow that, and name the image's format in output_format.",
            param="Accept",
        )
    if body.stream:
        raise InvalidRequest(
            "A job is not streamed in its response: leave out stream, and follow /v1/jobs/{id}/events; or "
            "leave out `Prefer: respond-async`.",
            param="stream",
            code="conflicting_parameters",
        )
    given = await asyncio.to_thread(lambda: body.model_dump_json(exclude_unset=True).encode())
    # With a seed, so that a job that is started again draws the same images.
    seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed
    job = await context.jobs.submit(
        request.url.path,
        await asyncio.to_thread(_written, body.model_copy(update={"seed": seed})),
        key=request.headers.get(HEADER),
        digest=hashlib.sha256(given).hexdigest(),
        webhook=None if body.webhook is None else (body.webhook.url, body.webhook.secret),
        traceparent=context.trace.outgoing_headers.get("traceparent", ""),
    )
    context.trace.fields["job"] = job.id
    headers = {"Location": f"/v1/jobs/{job.id}", **APPLIED}
    content = JobResponse.of(job).to_json(None)
    return Response(content, status_code=202, headers=headers, media_type="application/json")


def _written(body: JobBody) -> bytes:
    """The body as it is drawn, in a thread: it may hold megabytes of pictures."""
    return body.model_dump_json(exclude_unset=True, exclude={"webhook"}).encode()
