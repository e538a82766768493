"""An open-loop load: every request is sent when it is due, however long the ones before take.

Latency counts from the time a request was due. A client that waits for an answer before it sends the next
request slows down with the server and so leaves out the very waits that it should measure (coordinated
omission).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx2

_TIMING = re.compile(r"(\w+);dur=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. Times are in seconds since the load began; `stages` are the server's own seconds."""

    due: float
    sent: float
    ended: float
    status: int  # 0: no answer came
    stages: dict[str, float]

    @property
    def latency(self) -> float:
        return self.ended - self.due

    @property
    def lateness(self) -> float:
        """How much later than due the client sent it: the client's own failure to keep up."""
        return self.sent - self.due


Send = Callable[[int], Awaitable[httpx2.Response]]


async def offer(due: Sequence[float], send: Send) -> list[Answer]:
    """Send request `number` at `due[number]`, all of them, and wait for every answer."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_one(began, at, number, send)) for number, at in enumerate(due)]
    return [task.result() for task in tasks]


async def ask(send: Send, number: int) -> Answer:
    """One request, due now."""
    return await _one(time.perf_counter(), 0.0, number, send)


async def _one(began: float, due: float, number: int, send: Send) -> Answer:
    await asyncio.sleep(began + due - time.perf_counter())
    sent = time.perf_counter() - began
    try:
        response = await send(number)
    except httpx2.TransportError:
        return Answer(due, sent, time.perf_counter() - began, 0, {})
    ended = time.perf_counter() - began
    return Answer(due, sent, ended, response.status_code, stages_of(response.headers))


def stages_of(headers: httpx2.Headers) -> dict[str, float]:
    """Seconds by stage, from Server-Timing."""
    timing = headers.get("server-timing", "")
    return {name: float(milliseconds) / 1000 for name, milliseconds in _TIMING.findall(timing)}
