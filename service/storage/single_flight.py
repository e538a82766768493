"""SingleFlight: concurrent callers of the same work share one run of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _SharedTask(Generic[V]):
    task: asyncio.Task[V]
    num_waiting: int = 0


class SingleFlight(Generic[K, V]):
    """Running work by key. It is cancelled as soon as no caller waits for it, and only then."""

    def __init__(self) -> None:
        self._shared: dict[K, _SharedTask[V]] = {}

    def num_waiting(self, key: K) -> int:
        """The number of callers that wait for the work of `key`."""
        shared = self._shared.get(key)
        return 0 if shared is None else shared.num_waiting

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result, or the error, of the running work for `key`; `work` is started when there is none."""
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = _SharedTask(asyncio.create_task(work()))
        shared.num_waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.num_waiting -= 1
            if shared.num_waiting == 0:
                shared.task.cancel()  # without effect on finished work
                shared.task.add_done_callback(_retrieve_error)
                del self._shared[key]  # later callers start new work


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """Marks the error of abandoned work as retrieved, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
