"""Job: a request that was accepted to be drawn later, and how far it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from service.errors import JobNotFound, ServiceError, kinds_of_codes

_ID = re.compile(r"job_[a-z2-7]{26}")
MAX_SHOWN_CHARS = 64


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # it succeeded, and its result is no longer kept

    @property
    def is_open(self) -> bool:
        return self in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class JobOwner:
    """Whose job it is: what a worker needs to know of the caller, who is gone by then."""

    tenant: str
    name: str  # of the API key
    weight: int = 1
    style: str | None = None  # of the key: a style ID or code
    strength: float = 1.0
    traceparent: str = ""  # names the trace of the request; empty where none is kept

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> JobOwner:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Job:
    """Times are in seconds since 1970. `progress` goes from 0 to 1."""

    id: str
    endpoint: str  # the path of the request
    status: JobStatus
    created: float
    started: float | None = None
    finished: float | None = None
    expires: float | None = None  # when the result is kept no longer
    progress: float = 0.0
    attempts: int = 0
    has_preview: bool = False
    error: ServiceError | None = None


def job_id_of(scope: Sequence[str] | None) -> str:
    """A new ID; with the scope of an Idempotency-Key (tenant, path, key) always the same one, so that a
    client that sends a request again, because it has seen no response, gets the job that there is.
    """
    if scope is None:
        digest = secrets.token_bytes(16)
    else:
        digest = hashlib.sha256(json.dumps(["job", *scope]).encode()).digest()[:16]
    return f"job_{base64.b32encode(digest).decode().lower().rstrip('=')}"


def require_job_id(job_id: str) -> None:
    """JobNotFound for what no job can be called."""
    if not _ID.fullmatch(job_id):
        raise job_not_found(job_id)


def job_not_found(job_id: str) -> JobNotFound:
    return JobNotFound(
        f"There is no job {job_id[:MAX_SHOWN_CHARS]!r}: it never was, is another tenant's, or ended so long "
        "ago that it is forgotten. GET /v1/jobs lists those that there are."
    )


def job_from_hash(job_id: str, fields: Mapping[bytes, bytes], *, has_result: bool, has_preview: bool) -> Job:
    """The job of a record; one that succeeded and has no result any more has expired."""
    record = {name.decode(): value.decode() for name, value in fields.items()}
    status = JobStatus(record["status"])
    if status is JobStatus.SUCCEEDED and not has_result:
        status = JobStatus.EXPIRED
    return Job(
        id=job_id,
        endpoint=record["endpoint"],
        status=status,
        created=int(record["created"]) / 1000,
        started=_seconds(record, "started"),
        finished=_seconds(record, "finished"),
        expires=_seconds(record, "expires") if has_result else None,
        progress=float(record.get("progress", 0)),
        attempts=int(record.get("attempts", 0)),
        has_preview=has_preview and status is JobStatus.RUNNING,
        error=error_from_json(record["error"]) if "error" in record else None,
    )


def error_to_json(error: ServiceError) -> str:
    return json.dumps({"code": error.code, "message": error.message, "param": error.param})


def error_from_json(text: str) -> ServiceError:
    found: dict[str, Any] = json.loads(text)
    kind = kinds_of_codes().get(found["code"], ServiceError)
    return kind(
        found["message"], param=found["param"], code=found["code"] if kind is not ServiceError else None
    )


def _seconds(record: Mapping[str, str], name: str) -> float | None:
    return int(record[name]) / 1000 if name in record else None
