"""IdempotencyStore: what was answered to a request with an Idempotency-Key, for whoever sends it again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from service.errors import IdempotencyKeyInUse, IdempotencyKeyReused, StoreUnavailable
from service.storage.client import RETRY_AFTER_SECONDS, count_error

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from service.metrics import Metrics
import hashlib
import json
from dataclasses import dataclass

from service.storage.checksummed import add_checksum, verify_checksum

# Ten images of 1024 x 1024 in base64, with room to spare; a longer answer is sent and not kept.
MAX_BYTES = 32 * 2**20
# A claim outlives its process by so much; while that lives, it is renewed three times as often.
CLAIM_SECONDS = 30
# Claims that Redis was away to let go of; each holds up its key for CLAIM_SECONDS at most.
MAX_STRANDED = 10_000
RETRY_SECONDS = 1.0  # until the client may look again whether the first request is done
HEADER = "Idempotency-Key"
log = structlog.get_logger(__name__)


class Claim:
    """What asking for an Idempotency-Key led to: `answer`, when there is one to send again; else the right to
    answer this request, while no other request with the key may run.
    """

    def __init__(self, answers: IdempotencyStore, store_key: str, answer: Answer | None, token: str) -> None:
        self.answer = answer
        self._answers = answers
        self._store_key = store_key
        self._token = token
        self._is_ours = answer is None
        self._is_ending = False

    async def keep(self, answer: Answer) -> None:
        """For the requests to come; an answer that cannot be kept is only logged, since it can be sent."""
        assert self._is_ours, "an answer is kept once"
        sealed = answer.to_bytes()
        if len(sealed) > self._answers.max_bytes:
            log.warning("answer_not_kept", num_bytes=len(sealed), max_bytes=self._answers.max_bytes)
            return
        milliseconds = 1000 * self._answers.seconds
        kept = self._answers.keep(keys=[self._store_key], args=[self._token, milliseconds, sealed])
        self._is_ours = await self._answers.tried(kept) is None

    async def renew(self) -> None:
        """Until cancelled or told to end: redis-py may lose a cancellation while its connection breaks."""
        while not self._is_ending:
            await self._answers.sleep(CLAIM_SECONDS / 3)
            renewed = self._answers.keep(keys=[self._store_key], args=[self._token, 1000 * CLAIM_SECONDS, ""])
            await self._answers.tried(renewed)

    def end_renewal(self) -> None:
        self._is_ending = True

    async def let_go(self) -> None:
        """Let the next request with the key run, unless an answer is kept for it."""
        if self._is_ours:
            self._is_ours = False
            gone = self._answers.let_go(keys=[self._store_key], args=[self._token])
            if await self._answers.tried(gone) is None:
                self._answers.strand(self._store_key, self._token)


class IdempotencyStore:
    """Kept in Redis for `seconds`, for all replicas; each tenant has Idempotency-Keys of its own."""

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
        self._stranded: dict[str, str] = {}  # tokens of claims that may be in Redis, and that nobody holds
        self._claim = redis.register_script(CLAIM)
        self.keep = redis.register_script(KEEP)
        self.let_go = redis.register_script(LET_GO)

    @asynccontextmanager
    async def claim(self, *, scope: Sequence[str], fingerprint: str) -> AsyncIterator[Claim]:
        """`scope` is whose the key is: tenant, route, and the key. `fingerprint` stands for what was asked.

        IdempotencyKeyInUse while the first request runs, IdempotencyKeyReused when it asked for something
        else, StoreUnavailable when Redis cannot tell.
        """
        claim = await self._claimed(answer_key(scope), fingerprint)
        renewing = asyncio.create_task(claim.renew()) if claim.answer is None else None
        try:
            yield claim
        finally:
            if renewing is not None:
                claim.end_renewal()
                renewing.cancel()
                await asyncio.wait([renewing])
            await claim.let_go()

    async def tried(self, operation: Awaitable[object]) -> object:
        """What Redis says; None when it failed, which is counted: the claim ends by itself."""
        try:
            return await operation
        except RedisError as error:
            count_error(error, self._metrics)
            return None

    def strand(self, store_key: str, token: str) -> None:
        """Leave a claim to the next request with its key, should Redis still have it then."""
        self._stranded[store_key] = token
        if len(self._stranded) > MAX_STRANDED:
            del self._stranded[next(iter(self._stranded))]

    async def _claimed(self, store_key: str, fingerprint: str) -> Claim:
        token = self._stranded.pop(store_key, None) or secrets.token_hex(8)
        try:
            found = await self._claim(keys=[store_key], args=[fingerprint, token, 1000 * CLAIM_SECONDS])
            if not found:
                return Claim(self, store_key, None, token)
            theirs, sealed = found
            if theirs.decode() != fingerprint:
                raise IdempotencyKeyReused(
                    "This Idempotency-Key came with another request before. Send what you sent then, or "
                    "choose a new key for what is new.",
                    param=HEADER,
                )
            if sealed is None:
                raise IdempotencyKeyInUse(
                    "The first request with this Idempotency-Key is still running. Send it again shortly, "
                    "and its answer will be yours.",
                    param=HEADER,
                    retry_after_seconds=RETRY_SECONDS,
                )
            try:
                return Claim(self, store_key, Answer.from_bytes(sealed), token)
            except ValueError as error:
                log.error("answer_damaged", reason=str(error))
                await self._redis.delete(store_key)
        except RedisError as error:
            count_error(error, self._metrics)
            self.strand(store_key, token)
            raise StoreUnavailable(
                "The store that keeps answers for Idempotency-Keys cannot be used now. Try again shortly, or "
                "leave the header out.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from error
        return await self._claimed(store_key, fingerprint)


_KIND = b"AtA1"


def answer_key(scope: Sequence[str]) -> str:
    return f"atelier:answer:{hashlib.sha256(json.dumps(scope).encode()).hexdigest()}"


# KEYS: answer; ARGV: fingerprint, claim, milliseconds to live
# Returns the fingerprint and the answer that are there, no answer while it is claimed; nothing when the claim
# is ours now.
CLAIM = """
local fields = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer', 'claim')
-- Our own claim: sent again, because Redis went away before it could answer, or before it was let go.
if fields[1] and fields[3] ~= ARGV[2] then
  return {fields[1], fields[2]}
end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'claim', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {}
"""
# KEYS: answer; ARGV: claim, milliseconds to live, the sealed answer or "" to only renew the claim
# Does nothing when the claim is no longer ours.
KEEP = """
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then
  return 0
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'answer', ARGV[3])
  redis.call('HDEL', KEYS[1], 'claim')
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# KEYS: answer, and ARGV: claim, which is left alone when it is no longer ours
LET_GO = """
if redis.call('HGET', KEYS[1], 'claim') == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def to_bytes(self) -> bytes:
        """Sealed: a line of JSON, then the body."""
        return add_checksum(_KIND, json.dumps([self.status, self.headers]).encode() + b"\n" + self.body)

    @classmethod
    def from_bytes(cls, sealed: bytes) -> Answer:
        """ValueError when it is not what `to_bytes` wrote."""
        head, _, body = verify_checksum(_KIND, sealed).partition(b"\n")
        status, headers = json.loads(head)
        return cls(int(status), tuple((name, value) for name, value in headers), body)
