"""Stored responses in Redis: claimed by one request, stored whole, released after a failure or a death."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError
from starlette.types import Message

from service.access.idempotency_store import CLAIM, CLAIM_SECONDS, IdempotencyStore, StoredResponse
from service.errors import IdempotencyKeyInUse, IdempotencyKeyReused, StoreUnavailable
from service.http.middleware.idempotency import recording
from service.metrics import Metrics
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.storage.schema import ANSWER_BYTES, CLAIMS

SCOPE = ("acme", "/v1/styles", "key")
RESPONSE = StoredResponse(201, (("content-type", "text/plain"), ("x-odd", "\xff")), b"\x00\nbody")


def store_on(redis: Redis, **more: Any) -> IdempotencyStore:
    return IdempotencyStore(redis, metrics=Metrics(), seconds=600, **more)


async def test_a_stored_response_is_returned_by_any_replica_until_it_expires(redis: Redis) -> None:
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        assert claim.response is None
        await claim.save(RESPONSE)
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        assert claim.response == RESPONSE
    with pytest.raises(IdempotencyKeyReused):
        async with store_on(redis).claim(scope=SCOPE, fingerprint="g"):
            pass
    (key,) = await redis.keys("atelier:answer:*")
    assert 590 < await redis.ttl(key) <= 600
    assert sorted(await redis.hgetall(key)) == [b"answer", b"fingerprint"]
    assert await redis.exists(CLAIMS) == 0


async def test_a_claim_is_released_when_nothing_was_stored(redis: Redis) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store_on(redis).claim(scope=SCOPE, fingerprint="f"):
            raise ZeroDivisionError
    assert await redis.keys() == []


async def test_a_claim_is_renewed_while_it_is_held_and_ends_with_its_process(redis: Redis) -> None:
    asleep: asyncio.Queue[float] = asyncio.Queue()
    turn = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        await asleep.put(seconds)
        await turn.acquire()

    async with store_on(redis, sleep=sleep).claim(scope=SCOPE, fingerprint="f"):
        (key,) = await redis.keys("atelier:answer:*")
        assert [await redis.ttl(found) for found in await redis.keys()] == [-1, -1]  # which are never evicted
        assert await asleep.get() == CLAIM_SECONDS / 3
        until = int(await redis.hget(key, "until") or 0)
        await redis.hset(key, "until", until - 5000)
        turn.release()
        await asleep.get()
        assert int(await redis.hget(key, "until") or 0) >= until
        with pytest.raises(IdempotencyKeyInUse):
            async with store_on(redis).claim(scope=SCOPE, fingerprint="f"):
                pass
        await end_claims(redis)  # as if its process had died
        async with store_on(redis).claim(scope=SCOPE, fingerprint="f"):
            pass


async def end_claims(redis: Redis) -> None:
    """What the passing of CLAIM_SECONDS does."""
    keys: list[Any] = list(await redis.zrange(CLAIMS, 0, -1))
    for key in keys:
        await redis.hset(key, "until", "1")
        await redis.zadd(CLAIMS, {key: 1})


async def test_claims_of_a_dead_process_are_removed_by_later_ones_and_answers_are_not(redis: Redis) -> None:
    script = redis.register_script(CLAIM)
    for number in range(20):
        assert await script(keys=[f"k{number}", CLAIMS], args=["f", "dead", 1000]) == []
    await end_claims(redis)
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        await claim.save(RESPONSE)
    for key in ("a", "b"):
        async with store_on(redis).claim(scope=(*SCOPE[:2], key), fingerprint="f"):
            pass
    assert await redis.keys("k*") == []
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        assert claim.response == RESPONSE


async def test_a_running_claim_is_not_evicted_where_responses_are(redis: Redis) -> None:
    await redis.config_set("maxmemory-policy", "volatile-lru")
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        await claim.save(RESPONSE)
    async with store_on(redis).claim(scope=("acme", "/v1/styles", "running"), fingerprint="f"):
        await redis.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            await redis.set("more", "x")  # for which all is evicted that may be
        await redis.config_set("maxmemory", 0)
        with pytest.raises(IdempotencyKeyInUse):
            async with store_on(redis).claim(scope=("acme", "/v1/styles", "running"), fingerprint="f"):
                pass
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        assert claim.response is None


async def kept(store: IdempotencyStore, tenant: str) -> list[int]:
    """The numbers of the responses that are there."""
    found = []
    for number in range(30):
        async with store.claim(scope=(tenant, "/v1/styles", str(number)), fingerprint="f") as claim:
            if claim.response is not None:
                found.append(number)
    return found


async def keep(store: IdempotencyStore, tenant: str, numbers: range, num_bytes: int = 1000) -> None:
    for number in numbers:
        async with store.claim(scope=(tenant, "/v1/styles", str(number)), fingerprint="f") as claim:
            await claim.save(StoredResponse(200, (), bytes(num_bytes)))


async def test_the_oldest_responses_of_a_tenant_make_room_for_its_own(redis: Redis) -> None:
    store = store_on(redis, max_tenant_bytes=5_500, max_total_bytes=100_000)
    await keep(store, "acme", range(3))
    await keep(store, "beta", range(2))
    await keep(store, "acme", range(3, 12))
    assert await kept(store, "acme") == [7, 8, 9, 10, 11]
    assert await kept(store, "beta") == [0, 1]
    used = await redis.hgetall(ANSWER_BYTES)
    assert 5_000 < int(used[b"acme"]) <= 5_500


async def test_in_all_the_tenant_that_keeps_most_makes_room(redis: Redis) -> None:
    store = store_on(redis, max_tenant_bytes=10_000, max_total_bytes=12_500)
    await keep(store, "modest", range(2))
    await keep(store, "greedy", range(9))
    await keep(store, "other", range(4))
    assert await kept(store, "modest") == [0, 1]
    assert await kept(store, "other") == [0, 1, 2, 3]
    assert await kept(store, "greedy") == [3, 4, 5, 6, 7, 8]
    assert sum(map(int, await redis.hvals(ANSWER_BYTES))) <= 12_500


async def test_responses_that_have_expired_are_no_longer_counted(redis: Redis) -> None:
    store = store_on(redis, max_tenant_bytes=5_500, max_total_bytes=100_000)
    await keep(store, "acme", range(3))
    members: list[Any] = list(await redis.zrange("atelier:answers:acme", 0, -1))
    await keep(store, "acme", range(3, 5))
    for member in members:  # as if their time had passed
        await redis.zadd("atelier:answers:acme", {member: 1})
        await redis.delete(member.split(b":", 1)[1])
    await keep(store, "acme", range(1), num_bytes=200)  # again, and not for the first one's time
    await keep(store, "acme", range(10, 13))
    assert await kept(store, "acme") == [0, 3, 4, 10, 11, 12]
    await redis.delete("atelier:answers:acme")  # which expires with the last of them
    await keep(store, "acme", range(20, 25))
    assert int((await redis.hgetall(ANSWER_BYTES))[b"acme"]) <= 5_500
    assert await kept(store, "acme") == [0, 3, 4, 10, 11, 12, 20, 21, 22, 23, 24]


class Stubborn(IdempotencyStore):
    """Loses a cancellation, as redis-py does now and then when the store dies at that moment."""

    def __init__(self, redis: Redis, **more: Any) -> None:
        super().__init__(redis, metrics=Metrics(), seconds=600, **more)
        self.is_trying = asyncio.Event()

    async def succeeds(self, operation: Awaitable[object]) -> bool:
        trying = asyncio.ensure_future(super().succeeds(operation))
        self.is_trying.set()
        try:
            return await asyncio.shield(trying)
        except asyncio.CancelledError:
            return await trying


async def test_a_renewal_ends_with_its_request_even_if_its_cancellation_is_lost(
    valkey: EmbeddedValkey, redis: Redis
) -> None:
    turn = asyncio.Semaphore(1)

    async def sleep(seconds: float) -> None:
        await turn.acquire()

    store = Stubborn(redis, sleep=sleep)
    async with asyncio.timeout(30), store.claim(scope=SCOPE, fingerprint="f"):
        await store.is_trying.wait()
    assert await redis.keys() == []


@pytest.mark.parametrize("fingerprint", ["f", "another"])
async def test_a_claim_that_could_not_be_released_is_taken_over_by_the_next_request(
    valkey: EmbeddedValkey, redis: Redis, fingerprint: str
) -> None:
    store = store_on(redis)
    async with store.claim(scope=SCOPE, fingerprint="f"):
        await valkey.stop()
    with pytest.raises(StoreUnavailable):
        async with store.claim(scope=SCOPE, fingerprint="f"):
            pass
    await valkey.start()
    assert await redis.keys() != []  # the claim is still there
    async with store.claim(scope=SCOPE, fingerprint=fingerprint) as claim:
        assert claim.response is None
        with pytest.raises(IdempotencyKeyInUse):
            async with store.claim(scope=SCOPE, fingerprint=fingerprint):
                pass
        await claim.save(RESPONSE)
    async with store.claim(scope=SCOPE, fingerprint=fingerprint) as claim:
        assert claim.response == RESPONSE


@pytest.mark.parametrize("late", ["saves", "releases"])
async def test_a_claim_that_was_lost_takes_nothing_from_the_one_that_came_after(
    redis: Redis, late: str
) -> None:
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as lost:
        await redis.flushall()  # as if it had expired
        async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
            await (lost.save(StoredResponse(200, (), b"late")) if late == "saves" else lost.release())
            (key,) = await redis.keys("atelier:answer:*")
            assert sorted(await redis.hgetall(key)) == [b"claim", b"fingerprint", b"until"]
            await claim.save(RESPONSE)
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        assert claim.response == RESPONSE


async def test_a_claim_whose_confirmation_was_lost_is_sent_again_and_is_one_claim(redis: Redis) -> None:
    script = redis.register_script(CLAIM)
    assert await script(keys=["k", CLAIMS], args=["f", "mine", 1000]) == []
    assert await script(keys=["k", CLAIMS], args=["f", "mine", 1000]) == []
    assert await script(keys=["k", CLAIMS], args=["f", "theirs", 1000]) == [b"f", None]


async def test_a_damaged_response_is_deleted(redis: Redis) -> None:
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        await claim.save(RESPONSE)
    (key,) = await redis.keys("atelier:answer:*")
    await redis.hset(key, "answer", b"damage")
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        assert claim.response is None


async def test_a_response_over_the_bound_is_not_stored(redis: Redis) -> None:
    async with store_on(redis, max_bytes=1000).claim(scope=SCOPE, fingerprint="f") as claim:
        await claim.save(StoredResponse(200, (), bytes(1000)))
    assert await redis.keys() == []


async def test_a_response_that_cannot_be_stored_is_no_error_and_a_claim_that_cannot_be_made_is(
    redis: Redis, valkey: EmbeddedValkey
) -> None:
    store = store_on(redis)
    async with store.claim(scope=SCOPE, fingerprint="f") as claim:
        await valkey.stop()
        await claim.save(RESPONSE)
    with pytest.raises(StoreUnavailable, match="Try again shortly, or leave the header out"):
        async with store.claim(scope=SCOPE, fingerprint="f"):
            pass


@pytest.mark.parametrize(
    ("event", "is_kept"), [(b"event: image_generation.completed\n", True), (b"event: error\n", False)]
)
async def test_a_stream_is_stored_before_its_end_is_sent_unless_it_failed(
    redis: Redis, event: bytes, is_kept: bool
) -> None:
    when_sent: list[str] = []

    async def send(message: Message) -> None:
        keys = await redis.keys("atelier:answer:*")
        fields = await redis.hkeys(keys[0]) if keys else []
        when_sent.append("kept" if b"answer" in fields else "running" if keys else "free")

    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        recorded = recording(claim, send)
        headers = [(b"content-type", b"text/event-stream")]
        await recorded({"type": "http.response.start", "status": 200, "headers": headers})
        await recorded({"type": "http.response.body", "body": b"event: a\ndata: {}\n\n", "more_body": True})
        await recorded({"type": "http.response.body", "body": event + b"data: {}\n\n", "more_body": True})
        await recorded({"type": "http.response.body", "body": b"", "more_body": False})
    assert when_sent == ["running", "running", "running", "kept" if is_kept else "free"]
    async with store_on(redis).claim(scope=SCOPE, fingerprint="f") as claim:
        assert (claim.response is not None) == is_kept
        if claim.response is not None:
            assert claim.response.headers == (("content-type", "text/event-stream"),)
            assert claim.response.body == b"event: a\ndata: {}\n\n" + event + b"data: {}\n\n"
