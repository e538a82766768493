"""The JSON of jobs, and of the events of one."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from service.http.schemas.base import Incoming, Problem
from service.jobs.record import Job


class JobWebhook(Protocol):
    @property
    def url(self) -> str: ...

    @property
    def secret(self) -> str | None: ...


class JobBody(Protocol):
    """The body of a request that can become a job."""

    @property
    def seed(self) -> int | None: ...

    @property
    def stream(self) -> bool: ...

    @property
    def webhook(self) -> JobWebhook | None: ...

    def model_dump_json(self, *, exclude_unset: bool = ..., exclude: set[str] | None = ...) -> str: ...

    def model_copy(self, *, update: dict[str, Any]) -> JobBody: ...


class JobResponse(BaseModel):
    id: str = Field(description="The ID of the job, `job_...`.")
    object: Literal["job"] = Field(default="job", description="What this is.")
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"] = Field(
        description="`queued`, `running`, then `succeeded`, `failed` or `cancelled`; `expired` once the "
        "result of a job that succeeded is no longer kept."
    )
    endpoint: str = Field(description="The path of the request.")
    created: int = Field(description="When it was accepted, in seconds since 1970.")
    started: int | None = Field(description="When it was first started.")
    finished: int | None = Field(description="When it ended.")
    expires: int | None = Field(description="When the result is kept no longer; null where there is none.")
    progress: float = Field(description="Share of the work that is done, 0 to 1.")
    attempts: int = Field(
        description="How often it was started: more than once where a worker failed or died. It has one "
        "result all the same."
    )
    preview: str | None = Field(
        description="Where the latest preview is, an image; null while there is none."
    )
    result: dict[str, Any] | None = Field(
        description="What the request would have been answered; null before that, and in lists."
    )
    error: Problem | None = Field(description="Why it failed, as in the body of any error.")

    @classmethod
    def of(cls, job: Job) -> JobResponse:
        """Without the result."""
        error = job.error
        return cls(
            id=job.id,
            status=job.status.value,
            endpoint=job.endpoint,
            created=int(job.created),
            started=None if job.started is None else int(job.started),
            finished=None if job.finished is None else int(job.finished),
            expires=None if job.expires is None else math.ceil(job.expires),
            progress=job.progress,
            attempts=job.attempts,
            preview=f"/v1/jobs/{job.id}/preview" if job.has_preview else None,
            result=None,
            error=None
            if error is None
            else Problem(message=error.message, type=error.type, param=error.param, code=error.code),
        )

    def to_json(self, result: bytes | None) -> bytes:
        """With the result, megabytes of JSON that need not be read for this."""
        if result is None:
            return self.model_dump_json().encode()
        return self.model_dump_json(exclude={"result"}).encode()[:-1] + b',"result":' + result + b"}"


class JobQuery(Incoming):
    model_config = ConfigDict(strict=False)  # a query holds text only, so numbers are converted from it

    limit: int = Field(default=20, ge=1, le=100, description="Most jobs in one answer.")
    after: str | None = Field(default=None, max_length=100, description="The `last_id` of the answer before.")
    order: Literal["asc", "desc"] = Field(
        default="desc", description="By time of creation; newest first by default."
    )


class JobListResponse(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[JobResponse] = Field(description="The jobs, by time of creation, without results.")
    first_id: str | None = Field(description="The ID of the first one here; null when there is none.")
    last_id: str | None = Field(description="The ID to give as `after` for what follows.")
    has_more: bool = Field(description="Whether more follow.")


class JobEvent(BaseModel):
    """A change of a job."""

    type: Literal[
        "job.queued", "job.running", "job.succeeded", "job.failed", "job.cancelled", "job.expired"
    ] = Field(description="The job's status.")
    job: JobResponse = Field(description="The job as it is; with its result once it has succeeded.")
