"""IdempotencyStore: responses to requests with an Idempotency-Key, for a client that sends one again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from cachetools import LRUCache
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.errors import IdempotencyKeyInUse, IdempotencyKeyReused, StoreUnavailable
from service.metrics import Metrics
from service.storage.checksummed import add_checksum, verify_checksum
from service.storage.client import RETRY_AFTER_SECONDS, count_error

# Ten images of 1024 x 1024 in base64, and more; a longer response is sent and not stored.
MAX_BYTES = 32 * 2**20
# A claim outlives its process by this long; while the request runs, it is renewed three times as often.
CLAIM_SECONDS = 30
MAX_UNRELEASED = 10_000  # claims; each blocks its key for CLAIM_SECONDS at most
RETRY_SECONDS = 1.0  # until the client may ask again whether the first request is done
HEADER = "Idempotency-Key"
_KIND = b"AtA1"
log = structlog.get_logger(__name__)

# KEYS: response; ARGV: fingerprint, claim, milliseconds to live
# Returns nothing when the claim is ours now; else the fingerprint, and the response unless still claimed.
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


@dataclass(slots=True)
class Claim:
    """`response` is what was sent to the first request with the key. None: this is the first request, and no
    other request with the key may run until the claim is released.
    """

    store: IdempotencyStore
    redis_key: str
    token: str
    response: StoredResponse | None = None
    is_held: bool = True

    async def save(self, response: StoredResponse) -> None:
        """Store the response and end the claim. A failure is only logged, as the response is sent anyway."""
        head = json.dumps([response.status, response.headers]).encode()
        stored = add_checksum(_KIND, head + b"\n" + response.body)
        if len(stored) > self.store.max_bytes:
            log.warning("response_not_stored", num_bytes=len(stored), max_bytes=self.store.max_bytes)
        else:
            self.is_held = not await self.update(self.store.seconds, stored)

    async def release(self) -> None:
        """Let the next request with the key run, unless a response was stored for it."""
        if self.is_held:
            self.is_held = False
            if not await self.update(0):
                self.store.unreleased[self.redis_key] = self.token

    async def renew(self) -> None:
        """Until the claim ends: redis-py may lose a cancellation while its connection breaks."""
        while self.is_held:
            await self.store.sleep(CLAIM_SECONDS / 3)
            await self.update(CLAIM_SECONDS)

    async def update(self, seconds: int, stored: bytes = b"") -> bool:
        """Whether Redis replied; a failure is counted, and the claim expires by itself."""
        args: list[str | int | bytes] = [self.token, 1000 * seconds, stored]
        return await self.store.succeeds(self.store.update(keys=[self.redis_key], args=args))


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
        StoreUnavailable when Redis does not reply.
        """
        redis_key = f"atelier:answer:{hashlib.sha256(json.dumps(scope).encode()).hexdigest()}"
        token = self.unreleased.pop(redis_key, None) or secrets.token_hex(8)
        claim = Claim(self, redis_key, token)
        claim.response = await self._take(claim, fingerprint)
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

    async def _take(self, claim: Claim, fingerprint: str) -> StoredResponse | None:
        """The response stored for the key; None when the claim is made."""
        args: list[str | int] = [fingerprint, claim.token, 1000 * CLAIM_SECONDS]
        try:
            while found := await self._claim(keys=[claim.redis_key], args=args):
                response = _response(found, fingerprint)
                if response is not None:
                    return response
                await self._redis.delete(claim.redis_key)
        except RedisError as error:
            count_error(error, self._metrics)
            self.unreleased[claim.redis_key] = claim.token
            raise StoreUnavailable(
                "The store of responses to Idempotency-Keys cannot be used now. Try again shortly, or leave "
                "the header out.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from error
        return None


def _response(found: Sequence[bytes | None], fingerprint: str) -> StoredResponse | None:
    """The response of a key that is taken; None when it is damaged."""
    if found[0] != fingerprint.encode():
        raise IdempotencyKeyReused(
            "This Idempotency-Key was sent with another request before. Send the same request again, or "
            "choose a new key for a new one.",
            param=HEADER,
        )
    if found[1] is None:
        raise IdempotencyKeyInUse(
            "The first request with this Idempotency-Key is still running. Send it again shortly to get its "
            "response.",
            param=HEADER,
            retry_after_seconds=RETRY_SECONDS,
        )
    try:
        head, _, body = verify_checksum(_KIND, found[1]).partition(b"\n")
    except ValueError as error:
        log.error("stored_response_damaged", reason=str(error))
        return None
    status, headers = json.loads(head)
    return StoredResponse(status, tuple((name, value) for name, value in headers), body)
