"""One piece of work for everyone who wants its result at the same time."""

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
    """Work in flight by key. It is cancelled once nobody waits for it any more, and only then."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[V]] = {}

    def num_waiting(self, key: K) -> int:
        """How many wait for the work of `key`."""
        flight = self._flights.get(key)
        return 0 if flight is None else flight.num_waiting

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result of the `work` under way for `key`, started here when there is none; or its error."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(work()))
        flight.num_waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.num_waiting -= 1
            if flight.num_waiting == 0:
                flight.task.cancel()  # does nothing to work that is done
                flight.task.add_done_callback(_let_go)
                del self._flights[key]  # who comes from now on gets work of their own


def _let_go(task: asyncio.Task[Any]) -> None:
    """Looks at the error of work that nobody waits for, so that asyncio does not report it as forgotten."""
    if not task.cancelled():
        task.exception()
