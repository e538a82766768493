"""Prompt suffixes: another replica's change arrives, and a store that is away changes nothing."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service.errors import StoreUnavailable
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.styles.feature_cache import CONFIRM_SECONDS
from tests.support.styles import SMALL, Replica, picture_of


async def test_the_change_of_another_replica_is_used_after_a_while(redis: Redis) -> None:
    one, other = Replica(redis), Replica(redis)
    style, _ = await one.store.create([picture_of(1)], name=None, prompt_suffix="in ink")
    assert style.prompt_suffix == "in ink"
    assert [await replica.store.prompt_suffix(style.id) for replica in (one, other)] == ["in ink"] * 2
    await one.store.change(style.id, {"prompt_suffix": "in oil"})
    assert await one.store.prompt_suffix(style.id) == "in oil"
    assert await other.store.prompt_suffix(style.id) == "in ink"
    other.clock.now += CONFIRM_SECONDS
    assert await other.store.prompt_suffix(style.id) == "in oil"
    await one.store.change(style.id, {"prompt_suffix": None})
    other.clock.now += CONFIRM_SECONDS
    assert await other.store.prompt_suffix(style.id) is None


async def test_while_the_store_is_away_the_suffix_read_last_counts(
    redis: Redis, valkey: EmbeddedValkey
) -> None:
    replica = Replica(redis)
    style, _ = await replica.store.create([picture_of(1)], name=None, prompt_suffix="in ink")
    await valkey.stop()
    replica.clock.now += 2 * CONFIRM_SECONDS
    await replica.store.feature(style.id, SMALL)
    assert await replica.store.prompt_suffix(style.id) == "in ink"
    with pytest.raises(StoreUnavailable):
        await Replica(redis).store.prompt_suffix(style.id)
