"""Bodies that come as a form with files or as JSON: what the routes that read them have in common."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData

from service.errors import InvalidRequest, StoreUnavailable, UnsupportedMediaType
from service.http.error_handlers import nested_too_deeply, validation_error
from service.metrics import STAGES_OF_REQUESTS, Metrics
from service.stage_timer import RequestTrace

log = structlog.stdlib.get_logger(__name__)
DISK_RETRY_SECONDS = 10.0
ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class FormBounds:
    max_files: int
    max_fields: int
    max_part_size: int  # bytes of a field that is no file


@asynccontextmanager
async def opened_form(request: Request, trace: RequestTrace, bounds: FormBounds) -> AsyncIterator[FormData]:
    """A form, whose files live as long as the context. StoreUnavailable when the disk is full."""
    _require_utf8(request)
    async with AsyncExitStack() as stack:
        with _spooling(), trace.stage("upload"):
            opening = request.form(
                max_files=bounds.max_files, max_fields=bounds.max_fields, max_part_size=bounds.max_part_size
            )
            form = await stack.enter_async_context(opening)
        yield form
        with trace.stage("upload"):  # deleting the files takes its time, too
            await stack.aclose()


def observe_stages(request: Request, trace: RequestTrace) -> None:
    """The stages of the request so far, other than those of the model."""
    metrics: Metrics = request.app.state.metrics
    for stage, seconds in trace.seconds.items():
        if stage in STAGES_OF_REQUESTS:
            metrics.stage_duration_seconds.labels(stage=stage).observe(seconds)


def json_of(body: bytes) -> Any:
    """InvalidRequest for what is no JSON."""
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        message = f"The body is not valid JSON: {error.msg} at character {error.pos}."
        raise InvalidRequest(message, code="invalid_json") from error
    except RecursionError as error:
        raise nested_too_deeply() from error
    except ValueError as error:
        raise InvalidRequest("The body is not text in UTF-8.", code="invalid_json") from error


def validated(model: type[ModelT], found: Any) -> ModelT:
    """The body as its model; InvalidRequest with the first mistake."""
    try:
        return model.model_validate(found)
    except ValidationError as error:
        mistakes = [{**mistake, "loc": ("body", *mistake["loc"])} for mistake in error.errors()]
        raise validation_error(RequestValidationError(mistakes)) from error


def _require_utf8(request: Request) -> None:
    """UnsupportedMediaType for a form in another charset: Python has codecs that take minutes for a megabyte,
    and the library would decode with whichever the client names.
    """
    _, options = parse_options_header(request.headers.get("content-type", ""))
    charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"The form's charset must be utf-8, not {charset[:60]}.")


@contextmanager
def _spooling() -> Iterator[None]:
    """Turns an error of the disk into StoreUnavailable, and logs it."""
    try:
        yield
    except OSError as error:
        log.error("spool_error", error=str(error))
        raise StoreUnavailable(
            "The upload could not be kept while it came in: the service's disk is full or cannot be written. "
            "Try again later.",
            retry_after_seconds=DISK_RETRY_SECONDS,
        ) from error
