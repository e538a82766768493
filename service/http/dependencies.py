"""What routes depend on: the service once it is ready, the context of a request, and its connection."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.types import Receive

from service.access.idempotency_store import IdempotencyStore
from service.access.rate_limiter import RateLimiter
from service.application.caller import Caller
from service.application.extract_style import Styles
from service.application.generate import Images
from service.application.jobs import Jobs
from service.batching.batcher import Batcher
from service.errors import ClientDisconnected, NotReady
from service.settings import Settings
from service.stage_timer import RequestTrace

T = TypeVar("T")
# How long a model takes to load is unknown; a client that retries every few seconds costs nothing.
RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ReadyService:
    """What a service that is ready offers to HTTP."""

    settings: Settings
    images: Images
    styles: Styles
    jobs: Jobs
    rate_limiter: RateLimiter
    idempotency: IdempotencyStore
    batchers: tuple[Batcher[Any, Any], ...]
    loaded_at: int  # when the model was loaded, in seconds since 1970

    @property
    def is_alive(self) -> bool:
        """False for good once a batcher or the model thread has died."""
        return all(batcher.alive for batcher in self.batchers)

    async def ended(self) -> None:
        """Returns once `is_alive` is False."""
        waiting = [asyncio.create_task(batcher.ended()) for batcher in self.batchers]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()


@dataclass(slots=True)
class Readiness:
    """The service once it is ready; before that, and after a failure or a stop, the reason why it is not."""

    service: ReadyService | None = None
    reason: str = "The model is loading."
    is_closed: bool = False

    @property
    def is_ready(self) -> bool:
        return self.service is not None and self.service.is_alive

    def tell(self, reason: str) -> None:
        """Why it is not ready yet, from any thread; once it is closed, that stays the reason."""
        if not self.is_closed:
            self.reason = reason

    def open(self, service: ReadyService) -> None:
        """Ready, unless it was closed while the model was loading."""
        if not self.is_closed:
            self.service = service

    def close(self, reason: str) -> None:
        """Not ready from now on, for this reason."""
        self.service, self.reason, self.is_closed = None, reason, True

    def require(self) -> ReadyService:
        """NotReady unless the service is ready and alive."""
        if self.service is None:
            raise NotReady(self.reason, retry_after_seconds=RETRY_SECONDS)
        if not self.service.is_alive:
            raise NotReady("The model has died; restart the service.", retry_after_seconds=RETRY_SECONDS)
        return self.service


@dataclass(frozen=True, slots=True)
class Context:
    """What a route needs beside its body."""

    service: ReadyService
    caller: Caller
    trace: RequestTrace
    deadline: float | None  # in seconds of `time.monotonic`, the batchers' clock

    @property
    def styles(self) -> Styles:
        """Of the caller's tenant, so that no route can forget whose styles they are."""
        return self.service.styles.of(self.caller)

    @property
    def jobs(self) -> Jobs:
        """The same for jobs."""
        return self.service.jobs.of(self.caller)


async def _context(request: Request) -> Context:
    readiness: Readiness = request.app.state.readiness
    state = request.state
    return Context(readiness.require(), state.caller, state.trace, state.deadline)


ContextDep = Annotated[Context, Depends(_context)]


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client disconnects (ClientDisconnected).

    The body must have been read: from then on the connection's only news is its end.
    """
    working = asyncio.create_task(work)
    disconnect = asyncio.create_task(wait_for_disconnect(request.receive))
    try:
        await asyncio.wait({working, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected("The client closed the connection.")
        return await working
    finally:
        working.cancel()
        disconnect.cancel()
        await asyncio.gather(working, disconnect, return_exceptions=True)


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns once the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
