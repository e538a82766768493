"""IdempotencyStore: responses to requests with an Idempotency-Key, for a client that sends one again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from cachetools import LRUCache
from redis.exceptions import RedisError

from service.errors import IdempotencyKeyInUse, IdempotencyKeyReused, StoreUnavailable
from service.storage.checksummed import add_checksum, verify_checksum
from service.storage.client import RETRY_AFTER_SECONDS, count_error

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from service.metrics import Metrics

# Ten images of 1024 x 1024 in base64, with room to spare; a longer response is sent and not stored.
MAX_BYTES = 32 * 2**20
# A claim outlives its process by this long; while the request runs, it is renewed three times as often.
CLAIM_SECONDS = 30
MAX_UNRELEASED = 10_000  # claims; each blocks its key for CLAIM_SECONDS at most
RETRY_SECONDS = 1.0  # until the client may ask again whether the first request is done
HEADER = "Idempotency-Key"
_KIND = b"AtA1"
log = structlog.get_logger(__name__)

# KEYS: response; ARGV: fingerprint, claim, milliseconds to live
# Returns the fingerprint and the response that are there, no response while it is claimed; nothing when the
# claim is ours now.
CLAIM = """
local fields = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer', 'claim')
-- Our own claim: sent again, because Redis went away before it could reply, or before it was released.
if fields[1] and fields[3] ~= ARGV[2] then
  return {fields[1], fields[2]}
end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'claim', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {}
"""
# KEYS: response; ARGV: claim, milliseconds to live, the response or ""
# With a response, the claim ends and the response is stored. Without one, the claim is renewed, or released
# by 0 milliseconds. Does nothing when the claim is no longer ours.
UPDATE = """
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then
  return 0
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'answer', ARGV[3])
  redis.call('HDEL', KEYS[1], 'claim')
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def to_bytes(self) -> bytes:
        """With a checksum: a line of JSON, then the body."""
        return add_checksum(_KIND, json.dumps([self.status, self.headers]).encode() + b"\n" + self.body)

    @classmethod
    def from_bytes(cls, stored: bytes) -> StoredResponse:
        """The inverse of `to_bytes`; ValueError when `stored` is damaged."""
        head, _, body = verify_checksum(_KIND, stored).partition(b"\n")
        status, headers = json.loads(head)
        return cls(int(status), tuple((name, value) for name, value in headers), body)


class Claim:
    """`response` is what was sent to the first request with the key. None: this is the first request, and no
    other request with the key may run until the claim is released.
    """

    def __init__(
        self, store: IdempotencyStore, redis_key: str, token: str, response: StoredResponse | None = None
    ) -> None:
        self.response = response
        self._store = store
        self._redis_key = redis_key
        self._token = token
        self._is_held = response is None

    async def save(self, response: StoredResponse) -> None:
        """Store the response and end the claim. A failure is only logged, as the response is sent anyway."""
        assert self._is_held, "a response is stored once"
        stored = response.to_bytes()
        if len(stored) > self._store.max_bytes:
            log.warning("response_not_stored", num_bytes=len(stored), max_bytes=self._store.max_bytes)
        else:
            self._is_held = not await self._update(self._store.seconds, stored)

    async def release(self) -> None:
        """Let the next request with the key run, unless a response was stored for it."""
        if self._is_held:
            self._is_held = False
            if not await self._update(0):
                self._store.unreleased[self._redis_key] = self._token

    async def renew(self) -> None:
        """Until the claim ends: redis-py may lose a cancellation while its connection breaks."""
        while self._is_held:
            await self._store.sleep(CLAIM_SECONDS / 3)
            await self._update(CLAIM_SECONDS)

    async def _update(self, seconds: int, stored: bytes = b"") -> bool:
        """Whether Redis replied; a failure is counted, and the claim expires by itself."""
        args: list[str | int | bytes] = [self._token, 1000 * seconds, stored]
        return await self._store.succeeds(self._store.update(keys=[self._redis_key], args=args))


class IdempotencyStore:
    """Responses in Redis, for `seconds`, for all replicas. Each tenant has Idempotency-Keys of its own."""

    def __init__(
        self,
        redis: Redis,
        *,
        metrics: Metrics,
        seconds: int,
        max_bytes: int = MAX_BYTES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.seconds = seconds
        self.max_bytes = max_bytes
        self.sleep = sleep
        self._redis = redis
        self._metrics = metrics
        # Tokens of claims that could not be released: the next request with the key takes the claim over.
        self.unreleased = LRUCache[str, str](MAX_UNRELEASED)
        self._claim = redis.register_script(CLAIM)
        self.update = redis.register_script(UPDATE)

    @asynccontextmanager
    async def claim(self, *, scope: Sequence[str], fingerprint: str) -> AsyncIterator[Claim]:
        """`scope` says whose the key is: tenant, route, and the key. `fingerprint` identifies the request.

        IdempotencyKeyInUse while the first request runs, IdempotencyKeyReused when it was another request,
        StoreUnavailable when Redis cannot tell.
        """
        digest = hashlib.sha256(json.dumps(scope).encode()).hexdigest()
        claim = await self._take(f"atelier:answer:{digest}", fingerprint)
        if claim.response is not None:
            yield claim
            return
        renewing = asyncio.create_task(claim.renew())
        try:
            yield claim
        finally:
            await claim.release()
            renewing.cancel()
            await asyncio.wait([renewing])

    async def succeeds(self, operation: Awaitable[object]) -> bool:
        try:
            await operation
        except RedisError as error:
            count_error(error, self._metrics)
            return False
        return True

    async def _take(self, redis_key: str, fingerprint: str) -> Claim:
        token = self.unreleased.pop(redis_key, None) or secrets.token_hex(8)
        try:
            found = await self._claim(keys=[redis_key], args=[fingerprint, token, 1000 * CLAIM_SECONDS])
            if not found:
                return Claim(self, redis_key, token)
            its_fingerprint, stored = found
            if its_fingerprint.decode() != fingerprint:
                raise IdempotencyKeyReused(
                    "This Idempotency-Key was sent with another request before. Send the same request again, "
                    "or choose a new key for a new one.",
                    param=HEADER,
                )
            if stored is None:
                raise IdempotencyKeyInUse(
                    "The first request with this Idempotency-Key is still running. Send it again shortly to "
                    "get its response.",
                    param=HEADER,
                    retry_after_seconds=RETRY_SECONDS,
                )
            try:
                return Claim(self, redis_key, token, StoredResponse.from_bytes(stored))
            except ValueError as error:
                log.error("stored_response_damaged", reason=str(error))
                await self._redis.delete(redis_key)
        except RedisError as error:
            count_error(error, self._metrics)
            self.unreleased[redis_key] = token
            raise StoreUnavailable(
                "The store of responses to Idempotency-Keys cannot be used now. Try again shortly, or leave "
                "the header out.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from error
        return await self._take(redis_key, fingerprint)
