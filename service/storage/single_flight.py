"""SingleFlight: concurrent callers of the same work share one run of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Flight(Generic[V]):
    task: asyncio.Task[V]
    num_waiting: int = 0


class SingleFlight(Generic[K, V]):
    """Work in flight by key. It is cancelled as soon as no caller waits for it, and only then."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[V]] = {}

    def num_waiting(self, key: K) -> int:
        """The number of callers that wait for the work of `key`."""
        flight = self._flights.get(key)
        return 0 if flight is None else flight.num_waiting

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result, or the error, of the work in flight for `key`; `work` is started when there is none."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(work()))
        flight.num_waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.num_waiting -= 1
            if flight.num_waiting == 0:
                flight.task.cancel()  # without effect on finished work
                flight.task.add_done_callback(_retrieve_error)
                del self._flights[key]  # later callers start new work


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """Marks the error of abandoned work as retrieved, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
