"""SharedExclusiveLock: many hold it at once, or one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class SharedExclusiveLock:
    """At most `max_shared` holders at once, or one that is exclusive. While one waits to be exclusive, no new
    holder shares.
    """

    def __init__(self, max_shared: int) -> None:
        self._max_shared = max_shared
        self._num_shared = 0
        self._num_waiting_exclusive = 0
        self._is_exclusive = False
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        def may_hold() -> bool:
            is_closed = self._is_exclusive or self._num_waiting_exclusive > 0
            return not is_closed and self._num_shared < self._max_shared

        await self._wait_until(may_hold)
        self._num_shared += 1
        try:
            yield
        finally:
            self._num_shared -= 1
            self._notify()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        self._num_waiting_exclusive += 1
        try:
            await self._wait_until(lambda: not self._is_exclusive and self._num_shared == 0)
        finally:
            self._num_waiting_exclusive -= 1
            self._notify()
        self._is_exclusive = True
        try:
            yield
        finally:
            self._is_exclusive = False
            self._notify()

    async def _wait_until(self, may_hold: Callable[[], bool]) -> None:
        while not may_hold():
            await self._changed.wait()

    def _notify(self) -> None:
        """Wake all that wait, to look once more."""
        self._changed.set()
        self._changed = asyncio.Event()
