"""Style features: cached, stored or rebuilt; once for concurrent requests; served without the store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from service.errors import StoreUnavailable, StyleNotFound
from service.storage.client import connect
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.styles.record import style_id_of
from tests.support.held_replies import held_replies
from tests.support.styles import LARGE, SMALL, Replica, feature_of, keys_of_styles, picture_of


@pytest.fixture
async def style_id(redis: Redis) -> str:
    """A style that another replica made: nothing of it is cached here."""
    style, _ = await Replica(redis).store.create([picture_of(1)], name=None)
    return style.id


async def feature_key(redis: Redis) -> bytes:
    (key,) = await redis.keys("atelier:feature:*")
    assert isinstance(key, bytes)
    return key


def counts(replica: Replica) -> list[float | None]:
    return [replica.count(result) for result in ("hit", "miss", "rebuilt")]


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
async def test_a_damaged_or_missing_feature_is_rebuilt_from_the_picture(
    redis: Redis, style_id: str, damage: str
) -> None:
    key = await feature_key(redis)
    kept = await redis.get(key)
    assert isinstance(kept, bytes)
    match damage:
        case "changed":
            await redis.setrange(key, len(kept) - 1, b"\xff" if kept[-1] != 0xFF else b"\x00")
        case "cut":
            await redis.set(key, kept[: len(kept) // 2])
        case "gone":
            await redis.delete(key)
    replica = Replica(redis)
    with capture_logs() as logs:
        feature = await replica.store.feature(style_id, SMALL)
    assert feature.to_bytes() == feature_of(picture_of(1), SMALL).to_bytes()
    assert [entry["event"] for entry in logs] == ["style_feature_damaged"] * (damage != "gone")
    assert counts(replica) == [0, 1, 1]
    assert await redis.get(key) == kept
    await replica.store.feature(style_id, SMALL)
    assert counts(replica) == [1, 1, 1]


async def test_each_model_and_each_schedule_has_its_own_feature(redis: Redis, style_id: str) -> None:
    for replica, size in ((Replica(redis), LARGE), (Replica(redis, fingerprint="f" * 16), SMALL)):
        feature = await replica.store.feature(style_id, size)
        assert feature.to_bytes() == feature_of(picture_of(1), size).to_bytes()
        assert counts(replica) == [0, 1, 1]


async def test_a_feature_in_use_does_not_expire(redis: Redis, style_id: str) -> None:
    key = await feature_key(redis)
    await redis.expire(key, 100)
    await Replica(redis).store.feature(style_id, SMALL)
    assert await redis.ttl(key) > 29 * 24 * 3600


async def test_concurrent_requests_share_one_rebuild(redis: Redis, style_id: str) -> None:
    replica = Replica(redis)
    features = await asyncio.gather(*[replica.store.feature(style_id, LARGE) for _ in range(5)])
    assert len({id(feature) for feature in features}) == 1
    assert len(replica.extractor.seen) == 1
    assert counts(replica) == [0, 5, 1]


async def test_a_rebuild_that_nobody_waits_for_any_more_is_cancelled(redis: Redis, style_id: str) -> None:
    replica = Replica(redis)
    replica.extractor.gate.clear()
    request = asyncio.create_task(replica.store.feature(style_id, LARGE))
    await replica.extractor.started.wait()
    request.cancel()
    await asyncio.wait([request])
    replica.extractor.gate.set()
    await replica.store.feature(style_id, LARGE)
    assert replica.extractor.num_cancelled == 1


async def test_a_style_deleted_during_its_rebuild_stays_deleted(redis: Redis, style_id: str) -> None:
    replica = Replica(redis)
    replica.extractor.gate.clear()
    rebuild = asyncio.create_task(replica.store.feature(style_id, LARGE))
    await replica.extractor.started.wait()
    await Replica(redis).store.delete(style_id)
    replica.extractor.gate.set()
    with pytest.raises(StyleNotFound):
        await rebuild
    assert await keys_of_styles(redis) == [b"atelier:sequence"]
    with pytest.raises(StyleNotFound):
        await replica.store.feature(style_id, LARGE)


async def test_a_style_deleted_while_its_feature_is_read_is_not_cached_again(
    valkey: EmbeddedValkey, tmp_path: Path, style_id: str
) -> None:
    async with held_replies(valkey, tmp_path, marker=f"feature:{style_id}".encode()) as (replies, redis):
        replica = Replica(redis)
        reading = asyncio.create_task(replica.store.feature(style_id, SMALL))
        await replies.held.wait()
        await replica.store.delete(style_id)
        replies.gate.set()
        await reading  # it was asked for before
        with pytest.raises(StyleNotFound):
            await replica.store.feature(style_id, SMALL)


async def test_a_style_deleted_before_its_creator_was_told_is_not_cached_again(
    valkey: EmbeddedValkey, tmp_path: Path, style_id: str
) -> None:
    async with held_replies(valkey, tmp_path, marker=b"held back") as (replies, redis):
        replica = Replica(redis)
        creation = asyncio.create_task(replica.store.create([picture_of(2)], name="held back"))
        await replies.held.wait()
        created_id = style_id_of([picture_of(2).digest])
        await replica.store.delete(created_id)
        replies.gate.set()
        await creation
        with pytest.raises(StyleNotFound):
            await replica.store.feature(created_id, SMALL)


async def test_a_deletion_by_another_replica_is_noticed_within_half_a_minute(
    redis: Redis, style_id: str
) -> None:
    replica = Replica(redis)
    await replica.store.feature(style_id, SMALL)
    replica.clock.now += 31
    await replica.store.feature(style_id, SMALL)
    await Replica(redis).store.delete(style_id)
    replica.clock.now += 31
    with pytest.raises(StyleNotFound):
        await replica.store.feature(style_id, SMALL)


@pytest.mark.slow
async def test_while_the_store_is_unavailable_only_cached_styles_are_served(
    valkey: EmbeddedValkey, redis: Redis, style_id: str
) -> None:
    replica = Replica(redis)
    await replica.store.feature(style_id, SMALL)
    assert await replica.store.state() == "ready"
    await valkey.stop()
    replica.clock.now += 31  # even when the time has come to ask whether the style still exists
    feature = await replica.store.feature(style_id, SMALL)
    assert feature.to_bytes() == feature_of(picture_of(1), SMALL).to_bytes()
    assert replica.num_errors() == 1
    for operation in (
        replica.store.feature(style_id, LARGE),
        replica.store.get(style_id),
        replica.store.picture(style_id),
        replica.store.delete(style_id),
        replica.store.create([picture_of(2)], name=None),
        replica.store.list(limit=1, after=None, order="asc"),
    ):
        with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
            await operation
        assert caught.value.retry_after_seconds == 2
    assert await replica.store.state() == "unavailable"
    assert replica.num_errors() == 8
    await valkey.start()
    assert (await replica.store.get(style_id)).id == style_id


async def test_a_store_that_is_silent_is_given_up_after_one_wait() -> None:
    num_connections = 0

    async def listen_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen_only, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with connect(f"redis://127.0.0.1:{port}?socket_timeout=0.05") as redis:
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await Replica(redis).store.list(limit=1, after=None, order="asc")
        assert num_connections == 1


async def test_a_full_store_refuses_new_styles_whole_and_still_deletes_and_serves(
    redis: Redis, style_id: str
) -> None:
    replica = Replica(redis)
    await redis.config_set("maxmemory", "1mb")
    with pytest.raises(StoreUnavailable, match="full"):
        await replica.store.create([picture_of(2)], name=None)
    assert len(await redis.keys("atelier:style:*")) == 1
    assert len(await redis.keys()) == 7
    await replica.store.feature(style_id, LARGE)  # rebuilt, though it cannot be kept
    await replica.store.delete(style_id)
    assert await keys_of_styles(redis) == [b"atelier:sequence"]


async def test_only_the_features_used_last_are_cached(valkey: EmbeddedValkey, redis: Redis) -> None:
    replica = Replica(redis, max_features=2)
    ids = [(await replica.store.create([picture_of(i)], name=None))[0].id for i in range(2)]
    await replica.store.feature(ids[0], SMALL)
    ids.append((await replica.store.create([picture_of(2)], name=None))[0].id)
    await valkey.stop()
    for style_id in (ids[0], ids[2]):
        await replica.store.feature(style_id, SMALL)
    with pytest.raises(StoreUnavailable):
        await replica.store.feature(ids[1], SMALL)
