"""Quotas: of styles and of bytes, never exceeded by racing replicas, right after deletes and replays."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from service.errors import StyleNotFound, StyleQuotaExceeded
from service.metrics import Metrics
from service.storage.schema import Quota
from service.styles.record import StyleText
from service.styles.repository import StyleRepository
from service.styles.store import StyleStore
from tests.support.styles import Replica, picture_of

UNLIMITED = Quota()


async def bytes_in_redis(redis: Redis) -> int:
    """Of all records and pictures, counted one by one."""
    num_bytes = 0
    for key in await redis.keys("atelier:style:*"):
        num_bytes += sum(len(name) + len(value) for name, value in (await redis.hgetall(key)).items())
    for key in await redis.keys("atelier:picture:*"):
        num_bytes += await redis.strlen(key)
    return num_bytes


async def counted(redis: Redis, tenant: str = "") -> int:
    return int(await redis.get(f"atelier:bytes:{tenant}" if tenant else "atelier:bytes") or 0)


async def created(store: StyleStore, seed: int) -> str:
    style, _ = await store.create([picture_of(seed)], name=None)
    return style.id


async def test_one_style_too_many_is_refused_before_the_model_works_and_a_deletion_makes_room(
    redis: Redis,
) -> None:
    replica = Replica(redis, quota=Quota(styles=2))
    first, _ = await created(replica.store, 1), await created(replica.store, 2)
    num_extracted = len(replica.extractor.seen)
    keys = sorted(await redis.keys())
    with pytest.raises(StyleQuotaExceeded, match=r"2 styles, of at most 2, are in use\. Delete styles"):
        await created(replica.store, 3)
    assert len(replica.extractor.seen) == num_extracted
    assert sorted(await redis.keys()) == keys
    assert await created(replica.store, 1) == first  # what is there is no new style
    await replica.store.delete(first)
    await created(replica.store, 3)


async def test_bytes_are_those_of_pictures_and_records_after_every_kind_of_change(redis: Redis) -> None:
    replica, other_model = Replica(redis), Replica(redis, fingerprint="f" * 16)
    store = replica.store
    first = await created(store, 1)
    text, _ = await store.create(StyleText("watercolour", 0), name="wet", metadata={"a": "b"})
    assert await counted(redis) == await bytes_in_redis(redis) > 0
    await created(store, 1)
    await asyncio.gather(*[created(store, 2) for _ in range(5)])
    await store.change(text.id, {"name": "größer", "metadata": {"a": "b", "c": "d" * 500}})
    assert await counted(redis) == await bytes_in_redis(redis)
    await store.change(text.id, {"name": None, "metadata": None})
    await store.change(text.id, {"name": None})
    await other_model.store.get(first)  # writes its own analysis
    assert await counted(redis) == await bytes_in_redis(redis)
    await redis.set(f"atelier:picture:{first}:0", b"damaged")
    await created(store, 1)  # which repairs it
    await store.delete(text.id)
    await store.delete(first)
    with pytest.raises(StyleNotFound):
        await store.delete(first)
    assert await counted(redis) == await bytes_in_redis(redis) > 0


async def test_a_picture_or_a_change_that_takes_too_many_bytes_is_refused_whole(redis: Redis) -> None:
    unlimited = Replica(redis)
    style_id = await created(unlimited.store, 1)
    bound = await counted(redis) + 1000
    store = unlimited.store.of("", Quota(bytes=bound))
    with pytest.raises(StyleQuotaExceeded, match=f"bytes, of at most {bound:,}, are in use"):
        await created(store, 2)
    with pytest.raises(StyleQuotaExceeded):
        await store.change(style_id, {"metadata": {str(i): "x" * 500 for i in range(3)}})
    await store.change(style_id, {"metadata": {"a": "x" * 500}})
    await store.change(style_id, {"metadata": {"a": "x"}})
    assert await counted(redis) == await bytes_in_redis(redis) <= bound


@pytest.mark.parametrize("quota", [Quota(styles=5), "bytes of five"])
async def test_racing_uploads_never_exceed_the_quota(redis: Redis, quota: Quota | str) -> None:
    if not isinstance(quota, Quota):
        for seed in range(5):
            await created(Replica(redis).store, 100 + seed)
        quota = Quota(bytes=int(await counted(redis) * 1.02))  # noise compresses to the same size, nearly
        await redis.flushdb()
    replicas = [Replica(redis, quota=quota) for _ in range(3)]
    outcomes = await asyncio.gather(
        *[created(replicas[seed % 3].store, seed) for seed in range(24)], return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, StyleQuotaExceeded)]
    assert len(refused) == 19
    assert len(await redis.keys("atelier:style:*")) == 5
    assert await counted(redis) == await bytes_in_redis(redis)


async def test_each_tenant_has_a_quota_of_its_own(redis: Redis) -> None:
    store = Replica(redis).store
    acme, other = store.of("acme", Quota(styles=1)), store.of("other", Quota(styles=1))
    await created(acme, 1)
    await created(other, 1)
    for full in (acme, other):
        with pytest.raises(StyleQuotaExceeded):
            await created(full, 2)
    await created(store, 2)
    total = await counted(redis) + await counted(redis, "acme") + await counted(redis, "other")
    assert total == await bytes_in_redis(redis)


async def test_a_store_of_an_earlier_version_which_kept_no_count_is_counted(redis: Redis) -> None:
    unlimited = Replica(redis).store
    style_ids = [await created(unlimited, seed) for seed in range(3)]
    await redis.delete("atelier:bytes")
    await unlimited.change(style_ids[0], {"name": "counted"})
    assert await counted(redis) == await bytes_in_redis(redis)
    await redis.delete("atelier:bytes")
    await unlimited.delete(style_ids[0])
    with pytest.raises(StyleQuotaExceeded, match="2 styles, of at most 2"):
        await created(unlimited.of("", Quota(styles=2)), 4)
    with pytest.raises(StyleQuotaExceeded):
        await created(unlimited.of("", Quota(bytes=await bytes_in_redis(redis) + 10)), 4)
    await created(unlimited, 4)
    assert await counted(redis) == await bytes_in_redis(redis)


async def test_imported_styles_are_counted(redis: Redis) -> None:
    store, repository = Replica(redis).store, StyleRepository(redis, fingerprint="0" * 16, metrics=Metrics())
    style_id = await created(store, 1)
    stored = await repository.stored(style_id)
    assert stored is not None
    await store.delete(style_id)
    await created(store, 2)
    assert await repository.restore(style_id, *stored, tenant="", replace=False)
    await created(store, 3)
    assert await counted(redis) == await bytes_in_redis(redis)
