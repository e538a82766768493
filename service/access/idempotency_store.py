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
from service.storage.client import RETRY_AFTER_SECONDS, cancel_until_ended, count_error
from service.storage.lua import NOW, keeping
from service.storage.schema import ANSWER_BYTES, CLAIMS

# Ten images of 1024 x 1024 in base64, and more; a longer response is sent and not stored.
MAX_BYTES = 32 * 2**20
MAX_TENANT_BYTES, MAX_TOTAL_BYTES = 64 * 2**20, 256 * 2**20
# A claim outlives its process by this long; while the request runs, it is renewed three times as often.
CLAIM_SECONDS = 30
MAX_UNRELEASED = 10_000  # claims; each blocks its key for CLAIM_SECONDS at most
RETRY_SECONDS = 1.0  # until the client may ask again whether the first request is done
HEADER = "Idempotency-Key"
_KIND = b"AtA1"
log = structlog.get_logger(__name__)

# KEYS: response; ARGV: claim. The rest is for the claim's owner alone.
_OWN_CLAIM = """
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then
  return 0
end
"""
# A running claim has no expiry in Redis, which may evict what has one when its memory is full: two requests
# would run with one key. It ends at `until`, and what a dead process left is removed by later claims.
# KEYS: response, claims; ARGV: fingerprint, claim, milliseconds to live
# Returns nothing when the claim is ours now; else the fingerprint, and the response unless still claimed.
CLAIM = (
    NOW
    + """
local fields = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer', 'claim', 'until')
local is_over = fields[3] and fields[4] and tonumber(fields[4]) <= now
-- Our own claim: sent again, because Redis went away before it could reply, or before it was released.
if fields[1] and fields[3] ~= ARGV[2] and not is_over then
  return {fields[1], fields[2]}
end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'claim', ARGV[2], 'until', now + ARGV[3])
redis.call('PERSIST', KEYS[1])
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 10)) do
  redis.call('ZREM', KEYS[2], key)
  if key ~= KEYS[1] and redis.call('HEXISTS', key, 'claim') == 1 then
    redis.call('DEL', key)
  end
end
redis.call('ZADD', KEYS[2], now + ARGV[3], KEYS[1])
return {}
"""
)
# KEYS: response, claims; ARGV: claim, milliseconds to live, or 0 to release the claim
# Does nothing, and returns 0, when the claim is no longer ours.
RENEW = (
    NOW
    + _OWN_CLAIM
    + """
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return redis.call('ZREM', KEYS[2], KEYS[1])
end
redis.call('HSET', KEYS[1], 'until', now + ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[2], KEYS[1])
return 1
"""
)
# KEYS: response, claims
# ARGV: claim, milliseconds to live, the response, tenant, the most bytes of a tenant, and of all
# Keeps the response and ends the claim; does nothing when the claim is no longer ours. A response whose key
# is claimed is not deleted, so the claim ends last: an earlier response of this key may be dropped here.
KEEP = (
    NOW
    + _OWN_CLAIM
    + keeping(
        "atelier:answers:",
        ANSWER_BYTES,
        "if redis.call('HEXISTS', name, 'claim') == 0 then redis.call('DEL', name) end",
    )
    + """
redis.call('HSET', KEYS[1], 'answer', ARGV[3])
keep(ARGV[4], KEYS[1], #ARGV[3], ARGV[2], ARGV[5], ARGV[6])
redis.call('PEXPIRE', index .. ARGV[4], ARGV[2])
redis.call('HDEL', KEYS[1], 'claim', 'until')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZREM', KEYS[2], KEYS[1])
return 1
"""
)


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
    tenant: str
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
            self.is_held = not await self.store.keep(self, stored)

    async def release(self) -> None:
        """Let the next request with the key run, unless a response was stored for it."""
        if self.is_held:
            self.is_held = False
            if not await self.store.renew(self, 0):
                self.store.unreleased[self.redis_key] = self.token

    async def renew(self) -> None:
        """Until the claim ends: redis-py may lose a cancellation while its connection breaks."""
        while self.is_held:
            await self.store.sleep(CLAIM_SECONDS / 3)
            await self.store.renew(self, CLAIM_SECONDS)


class IdempotencyStore:
    """Responses in Redis, for all replicas: for `seconds`, or until newer ones need the room, as those of a
    tenant take at most `max_tenant_bytes`, and all together `max_total_bytes`. Keys are of one tenant each.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        metrics: Metrics,
        seconds: int,
        max_bytes: int = MAX_BYTES,
        max_tenant_bytes: int = MAX_TENANT_BYTES,
        max_total_bytes: int = MAX_TOTAL_BYTES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.seconds = seconds
        self.max_bytes = min(max_bytes, max_tenant_bytes, max_total_bytes)
        self._bounds = max_tenant_bytes, max_total_bytes
        self.sleep = sleep
        self._redis = redis
        self._metrics = metrics
        # Tokens of claims that could not be released: the next request with the key takes the claim over.
        self.unreleased = LRUCache[str, str](MAX_UNRELEASED)
        self._claim = redis.register_script(CLAIM)
        self._renew = redis.register_script(RENEW)
        self._keep = redis.register_script(KEEP)

    @asynccontextmanager
    async def claim(self, *, scope: Sequence[str], fingerprint: str) -> AsyncIterator[Claim]:
        """`scope` says whose the key is: tenant, route, and the key. `fingerprint` identifies the request.

        IdempotencyKeyInUse while the first request runs, IdempotencyKeyReused when it was another request,
        StoreUnavailable when Redis does not reply.
        """
        redis_key = f"atelier:answer:{hashlib.sha256(json.dumps(scope).encode()).hexdigest()}"
        token = self.unreleased.pop(redis_key, None) or secrets.token_hex(8)
        claim = Claim(self, redis_key, scope[0], token)
        claim.response = await self._take(claim, fingerprint)
        if claim.response is not None:
            yield claim
            return
        renewing = asyncio.create_task(claim.renew())
        try:
            yield claim
        finally:
            await claim.release()
            await cancel_until_ended(renewing)

    async def renew(self, claim: Claim, seconds: int) -> bool:
        """Whether Redis replied; a failure is counted, and the claim ends by itself. 0 seconds release it."""
        renewing = self._renew(keys=[claim.redis_key, CLAIMS], args=[claim.token, 1000 * seconds])
        return await self.succeeds(renewing)

    async def keep(self, claim: Claim, stored: bytes) -> bool:
        """Whether Redis replied: then the claim has ended, and the response is kept unless that was lost."""
        args: list[str | int | bytes] = [claim.token, 1000 * self.seconds, stored, claim.tenant]
        args += self._bounds
        return await self.succeeds(self._keep(keys=[claim.redis_key, CLAIMS], args=args))

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
            while found := await self._claim(keys=[claim.redis_key, CLAIMS], args=args):
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
