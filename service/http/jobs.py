"""/v1/jobs: list, get, follow and cancel."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from service.application.jobs import Jobs
from service.http.dependencies import ContextDep
from service.http.openapi import examples, responses
from service.http.schemas.jobs import JobListResponse, JobQuery, JobResponse
from service.http.sse import EventStream
from service.jobs.record import Job, JobStatus
from service.media.images import media_type_of

router = APIRouter(tags=["jobs"])

JobIdPath = Annotated[str, Path(description="A job ID, `job_...`.", examples=[examples.JOB_ID])]


@router.get("/v1/jobs", responses=responses.LIST_JOBS)
async def list_jobs(query: Annotated[JobQuery, Query()], context: ContextDep) -> JobListResponse:
    """The jobs by time of creation, without results; `after` continues an answer with `has_more`."""
    page = await context.jobs.store.list(limit=query.limit, after=query.after, order=query.order)
    listed = [JobResponse.of(job) for job in page.jobs]
    return JobListResponse(
        data=listed,
        first_id=listed[0].id if listed else None,
        last_id=listed[-1].id if listed else None,
        has_more=page.has_more,
    )


@router.get("/v1/jobs/{job_id}", response_model=JobResponse, responses=responses.GET_JOB)
async def get_job(job_id: JobIdPath, context: ContextDep) -> Response:
    """How far a job is; once it has succeeded, its result."""
    return await _response(context.jobs, await context.jobs.store.get(job_id))


@router.get("/v1/jobs/{job_id}/preview", response_class=Response, responses=responses.GET_JOB_PREVIEW)
async def get_job_preview(job_id: JobIdPath, context: ContextDep) -> Response:
    """The latest preview of a job that runs: an image, small, as it stood after one of the steps."""
    content = await context.jobs.store.preview(job_id)
    return Response(content, media_type=media_type_of(content), headers={"X-Content-Type-Options": "nosniff"})


@router.get("/v1/jobs/{job_id}/events", response_class=Response, responses=responses.GET_JOB_EVENTS)
async def get_job_events(job_id: JobIdPath, context: ContextDep) -> Response:
    """The job as server-sent events: as it is, then after each change, until it has ended."""
    jobs = context.jobs
    await jobs.store.get(job_id)  # a 404 is a status, not an event
    ping_seconds = context.service.settings.ping_seconds
    return EventStream(
        _events(jobs, job_id),
        lambda event: event,
        lambda: None,
        ping_seconds=ping_seconds,
        trace=context.trace,
    )


@router.delete("/v1/jobs/{job_id}", response_model=JobResponse, responses=responses.CANCEL_JOB)
async def cancel_job(job_id: JobIdPath, context: ContextDep) -> Response:
    """Cancel a job that waits or runs: it stops at its next step. Of one that has succeeded the result is
    deleted; any other stays as it is.
    """
    return await _response(context.jobs, await context.jobs.store.cancel(job_id))


@dataclass(frozen=True, slots=True)
class _Event:
    """A JobEvent whose JSON is made of what is stored."""

    type: str
    content: bytes

    def model_dump_json(self, *, exclude_none: bool = False) -> str:
        return f'{{"type":"{self.type}","job":{self.content.decode()}}}'


async def _events(jobs: Jobs, job_id: str) -> AsyncGenerator[_Event]:
    async for job in jobs.updates(job_id):
        yield _Event(f"job.{job.status.value}", await _content(jobs, job))


async def _response(jobs: Jobs, job: Job) -> Response:
    return Response(await _content(jobs, job), media_type="application/json")


async def _content(jobs: Jobs, job: Job) -> bytes:
    result = await jobs.store.result(job.id) if job.status is JobStatus.SUCCEEDED else None
    return JobResponse.of(job).to_json(result)
