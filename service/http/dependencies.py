"""What the routes need of a ready service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Request

from service.access.idempotency_store import IdempotencyStore
from service.access.rate_limiter import RateLimiter
from service.application.upload_limiter import UploadLimiter
from service.batching.batcher import Batcher
from service.errors import NotReady
from service.http.middleware.auth import caller_of
from service.metrics import Metrics
from service.model.engine.generator import Generator
from service.model.engine.types import Drawing, ImageSpec
from service.settings import Settings
from service.styles.store import StyleStore

T = TypeVar("T")
P = ParamSpec("P")
# Nobody knows how long a model takes to load; a client that asks every few seconds costs nothing.
RETRY_SECONDS = 2.0
# Kubernetes gives a probe one second by default.
PROBE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a ready service, wired.

    Uploads are decoded and images encoded in pools of their own: slow uploads hold up no finished image.
    """

    settings: Settings
    metrics: Metrics
    generator: Generator
    generation: Batcher[ImageSpec, Drawing]
    store: StyleStore
    rates: RateLimiter
    answers: IdempotencyStore
    uploads: UploadLimiter
    decoding: Executor
    encoding: Executor
    alive: Callable[[], bool]  # False for good once a batcher or the model thread has died
    created: int  # when the model was loaded, in seconds since 1970

    async def store_answers(self) -> bool:
        """Whether the store answers soon enough for the probe that asks."""
        try:
            return await asyncio.wait_for(self.store.ping(), PROBE_SECONDS)
        except TimeoutError:
            return False

    async def off_loop(self, pool: Executor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work on pictures away from the event loop, and away from the model thread."""
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(*args, **kwargs))


@dataclass(slots=True)
class Readiness:
    """The parts once they are wired; before that, and after a failure or a stop, why there are none."""

    parts: Parts | None = None
    reason: str = "The model is loading."
    is_closed: bool = False

    @property
    def is_ready(self) -> bool:
        return self.parts is not None and self.parts.alive()

    def open(self, parts: Parts) -> None:
        """Ready, unless a signal to end came while the model was loading."""
        if not self.is_closed:
            self.parts = parts

    def close(self, reason: str) -> None:
        """Not ready from now on, and why."""
        self.parts, self.reason, self.is_closed = None, reason, True

    def require(self) -> Parts:
        """NotReady when there are no parts, or the model has died."""
        if self.parts is None:
            raise NotReady(self.reason, retry_after_seconds=RETRY_SECONDS)
        if not self.parts.alive():
            raise NotReady("The model has died; restart the service.", retry_after_seconds=RETRY_SECONDS)
        return self.parts


async def _ready_parts(request: Request) -> Parts:
    """As the caller sees them: of the styles, its tenant's alone. No route can forget whose they are."""
    readiness = request.app.state.readiness
    assert isinstance(readiness, Readiness)
    parts = readiness.require()
    return replace(parts, store=parts.store.of(caller_of(request.scope).tenant))


ReadyParts = Annotated[Parts, Depends(_ready_parts)]
