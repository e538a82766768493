"""DrainingServer: after a signal, red to those who ask and closed to new work until accepted work is done."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import uvicorn

# How soon a second signal, which asks to end at once, is noticed.
LOOK_SECONDS = 0.1


class DrainingServer(uvicorn.Server):
    """uvicorn stops listening at the signal; probes and balancers would see a service that has vanished.

    This one goes on answering until the requests that it had accepted have ended, or `drain_seconds` are
    over: `/readyz` and new work get a 503 that says why. Then it ends as uvicorn does.
    """

    def __init__(self, config: uvicorn.Config, *, close: Callable[[], None], drain_seconds: float) -> None:
        super().__init__(config)
        self.close = close  # turns readiness red
        self.drain_seconds = drain_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.close()
        accepted, until = set(self.server_state.tasks), time.monotonic() + self.drain_seconds
        while accepted and not self.force_exit and time.monotonic() < until:
            _, accepted = await asyncio.wait(accepted, timeout=LOOK_SECONDS)
        await super().shutdown(sockets)
