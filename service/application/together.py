"""Together: many do something at once, or one does it alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Together:
    """At most `max_others` inside at once, or one that is `alone`, for which no new others enter."""

    def __init__(self, max_others: int) -> None:
        self._max_others = max_others
        self._num_others = 0
        self._num_waiting_alone = 0
        self._has_one_alone = False
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def others(self) -> AsyncIterator[None]:
        def may_enter() -> bool:
            is_kept_out = self._has_one_alone or self._num_waiting_alone > 0
            return not is_kept_out and self._num_others < self._max_others

        await self._until(may_enter)
        self._num_others += 1
        try:
            yield
        finally:
            self._num_others -= 1
            self._tell()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        self._num_waiting_alone += 1
        try:
            await self._until(lambda: not self._has_one_alone and self._num_others == 0)
        finally:
            self._num_waiting_alone -= 1
            self._tell()
        self._has_one_alone = True
        try:
            yield
        finally:
            self._has_one_alone = False
            self._tell()

    async def _until(self, may_enter: Callable[[], bool]) -> None:
        while not may_enter():
            await self._changed.wait()

    def _tell(self) -> None:
        """Wake all that wait, to look once more."""
        self._changed.set()
        self._changed = asyncio.Event()
