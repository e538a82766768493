"""The style store: content-addressed, durable, concurrent, and clear about what is damaged or away."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from service.errors import InvalidRequest, ServiceError, StyleDamaged, StyleNotFound
from service.storage.checksummed import FEATURE, PICTURE, add_checksum, verify_checksum
from service.storage.client import connect
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.storage.schema import REMOVED_SECONDS, removed_key
from service.styles.record import (
    Style,
    StyleAnalysis,
    StyleText,
    analysis_field,
    from_hash,
    is_style_id,
    style_id_of,
    to_hash,
)
from tests.support.styles import LARGE, SMALL, Replica, feature_of, picture_of


@pytest.fixture
async def replica(redis: Redis) -> Replica:
    return Replica(redis)


async def key(redis: Redis, pattern: str) -> bytes:
    (found,) = await redis.keys(pattern)
    assert isinstance(found, bytes)
    return found


async def test_a_picture_becomes_a_style_that_can_be_read_back(replica: Replica) -> None:
    picture = picture_of(1)
    style, is_new = await replica.store.create([picture], name="reeds")
    assert is_new
    assert is_style_id(style.id)
    assert style == Style(
        style.id, "reeds", 1_700_000_000, 1, 24, 20, picture.media_type, analysis=style.analysis
    )
    assert await replica.store.get(style.id) == style
    assert await replica.store.picture(style.id) == picture.content


async def test_the_feature_of_a_new_style_needs_no_second_extraction(replica: Replica, redis: Redis) -> None:
    style, _ = await replica.store.create([picture_of(1)], name=None)
    other = Replica(redis)
    for store in (replica.store, other.store, other.store):
        feature = await store.feature(style.id, SMALL)
        assert feature.to_bytes() == feature_of(picture_of(1), SMALL).to_bytes()
    assert [size for _, size in replica.extractor.seen] == [SMALL]
    assert other.extractor.seen == []
    assert [other.count(result) for result in ("hit", "miss", "rebuilt")] == [2, 0, 0]


async def test_the_same_picture_again_is_the_same_style_and_changes_nothing(replica: Replica) -> None:
    first, _ = await replica.store.create([picture_of(1)], name="reeds")
    replica.clock.now += 100
    assert await replica.store.create([picture_of(1)], name="other") == (first, False)
    assert len(replica.extractor.seen) == 1
    assert (await replica.store.create([picture_of(2)], name=None))[0].id != first.id


def test_an_id_once_given_out_never_changes() -> None:
    assert style_id_of(["ab" * 32]) == "sty_lczb64ttqkp5qy777m54kwto2g"


async def test_what_was_created_survives_kill_9(valkey: EmbeddedValkey, replica: Replica) -> None:
    picture = picture_of(1)
    style, _ = await replica.store.create([picture], name="reeds")
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGKILL)
    await valkey.wait()
    await valkey.start()
    async with connect(valkey.url) as redis:
        after = Replica(redis)
        assert await after.store.get(style.id) == style
        assert await after.store.picture(style.id) == picture.content
        feature = await after.store.feature(style.id, SMALL)
        assert feature.to_bytes() == feature_of(picture, SMALL).to_bytes()
        assert after.extractor.seen == []


async def test_nothing_is_written_when_the_feature_cannot_be_extracted(redis: Redis) -> None:
    replica = Replica(redis)
    replica.extractor.gate.clear()
    creation = asyncio.create_task(replica.store.create([picture_of(1)], name=None))
    await replica.extractor.started.wait()
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert replica.extractor.num_cancelled == 1
    assert await redis.keys() == []


async def test_only_features_expire(replica: Replica, redis: Redis) -> None:
    await replica.store.create([picture_of(1)], name=None)
    expiring = {key for key in await redis.keys() if await redis.ttl(key) != -1}
    assert expiring == {await key(redis, "atelier:feature:*")}
    assert await redis.ttl(expiring.pop()) == 30 * 24 * 3600


async def test_deleting_leaves_a_place_in_lists_for_a_while_and_nothing_else(
    replica: Replica, redis: Redis
) -> None:
    style, _ = await replica.store.create([picture_of(1)], name="reeds")
    newer = Replica(redis, fingerprint="fedcba9876543210")
    for store in (replica.store, newer.store):
        for size in (SMALL, LARGE):
            await store.feature(style.id, size)
    assert len(await redis.keys("atelier:feature:*")) == 4
    await replica.store.delete(style.id)
    assert sorted(await redis.keys()) == [removed_key(style.id).encode(), b"atelier:sequence"]
    for lookup in (replica.store.get, replica.store.picture, replica.store.delete):
        with pytest.raises(StyleNotFound, match="POST /v1/styles"):
            await lookup(style.id)
    with pytest.raises(StyleNotFound) as caught:
        await replica.store.feature(style.id, SMALL)
    assert caught.value.param == "style"


@pytest.mark.parametrize(
    "id", ["", "sty_", "sty_*", "sty_" + "A" * 26, "sty_" + "a" * 25 + ":", "ü" * 900, "\ud800"]
)
async def test_what_is_no_id_is_no_style(replica: Replica, id: str) -> None:
    for lookup in (replica.store.get, replica.store.picture, replica.store.delete):
        with pytest.raises(StyleNotFound):
            await lookup(id)


async def test_of_two_creations_at_once_one_is_new_and_the_picture_is_extracted_once(
    replica: Replica,
) -> None:
    replica.extractor.gate.clear()
    creations = [asyncio.create_task(replica.store.create([picture_of(1)], name=str(i))) for i in range(2)]
    style_id = style_id_of([picture_of(1).digest])
    while replica.store.extractions.num_waiting(style_id) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)  # not for a time: only until both have got there
    replica.extractor.gate.set()
    (first, is_new), (second, is_also_new) = await asyncio.gather(*creations)
    assert {is_new, is_also_new} == {True, False}
    assert first == second == await replica.store.get(first.id)
    assert len(replica.extractor.seen) == 1


async def test_of_two_replicas_creating_at_once_one_is_first_and_both_say_the_same(redis: Redis) -> None:
    replicas = [Replica(redis), Replica(redis)]
    for replica in replicas:
        replica.extractor.gate.clear()
    creations = [
        asyncio.create_task(r.store.create([picture_of(1)], name=str(i))) for i, r in enumerate(replicas)
    ]
    for replica in replicas:
        await replica.extractor.started.wait()
    for replica in replicas:
        replica.extractor.gate.set()
    (first, is_new), (second, is_also_new) = await asyncio.gather(*creations)
    assert {is_new, is_also_new} == {True, False}
    assert first == second
    page = await replicas[0].store.list(limit=10, after=None, order="asc")
    assert page.styles == (first,)


async def names(replica: Replica, **where: object) -> tuple[list[str | None], bool]:
    page = await replica.store.list(**{"limit": 2, "after": None, "order": "asc"} | where)  # type: ignore[arg-type]
    return [style.name for style in page.styles], page.has_more


async def test_lists_are_in_order_of_creation_and_continue_after_a_style(replica: Replica) -> None:
    """All five in the same second: the order does not come from the clock."""
    ids = [(await replica.store.create([picture_of(i)], name=str(i)))[0].id for i in range(5)]
    assert await names(replica) == (["0", "1"], True)
    assert await names(replica, after=ids[1]) == (["2", "3"], True)
    assert await names(replica, after=ids[3]) == (["4"], False)
    assert await names(replica, after=ids[4]) == ([], False)
    assert await names(replica, order="desc", limit=3) == (["4", "3", "2"], True)
    assert await names(replica, order="desc", limit=2, after=ids[2]) == (["1", "0"], False)
    await replica.store.delete(ids[3])
    assert await names(replica, after=ids[2]) == (["4"], False)
    with pytest.raises(InvalidRequest, match="start again") as caught:
        await names(replica, after="sty_" + "a" * 26)
    assert caught.value.param == "after"


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_who_deletes_what_was_listed_and_lists_on_sees_every_style_once(
    replica: Replica, redis: Redis, order: Literal["asc", "desc"]
) -> None:
    ids = {(await replica.store.create([picture_of(i)], name=None))[0].id for i in range(5)}
    after, seen, has_more = None, list[str](), True
    while has_more:
        page = await replica.store.list(limit=2, after=after, order=order)
        has_more, after = page.has_more, page.styles[-1].id
        for style in page.styles:
            seen.append(style.id)
            await replica.store.delete(style.id)
    assert sorted(seen) == sorted(ids)
    assert 0 < await redis.ttl(removed_key(seen[0])) <= REMOVED_SECONDS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metadata", "[" * 100_000),
        (analysis_field("0123456789abcdef", has_pictures=True), "[" * 100_000),
        ("num_images", "-1"),
        ("num_images", "0"),
        ("num_images", "11"),
        ("image_media_type", "text/html"),
    ],
)
async def test_a_record_that_was_tampered_with_is_damaged_and_harms_no_other(
    replica: Replica, redis: Redis, field: str, value: str
) -> None:
    style, _ = await replica.store.create([picture_of(1)], name=None)
    other, _ = await replica.store.create([picture_of(2)], name=None)
    await redis.hset(f"atelier:style:{style.id}", field, value)
    for lookup in (
        replica.store.get(style.id),
        replica.store.picture(style.id),
        Replica(redis).store.feature(style.id, LARGE),
    ):
        with pytest.raises(StyleDamaged):
            await lookup
    assert (await replica.store.list(limit=9, after=None, order="asc")).styles == (other,)
    await replica.store.create([picture_of(1)], name=None)  # which repairs it
    assert await replica.store.picture(style.id) == picture_of(1).content


async def test_a_damaged_record_is_named_left_out_of_lists_and_repaired_by_its_picture(
    replica: Replica, redis: Redis
) -> None:
    ids = [(await replica.store.create([picture_of(i)], name=str(i)))[0].id for i in range(4)]
    for i in (1, 2):
        await redis.hset(f"atelier:style:{ids[i]}", "created", "yesterday")
    with capture_logs() as logs, pytest.raises(ServiceError, match="Upload its picture again") as caught:
        await replica.store.get(ids[1])
    assert (caught.value.code, caught.value.status) == ("style_damaged", 500)
    assert logs[0]["reason"].startswith("the record's created is 'yesterday'")
    assert await names(replica) == (["0", "3"], False)
    assert await names(replica, limit=1) == (["0"], True)

    style, is_new = await replica.store.create([picture_of(1)], name="again")
    assert is_new
    assert await replica.store.get(ids[1]) == style
    assert await names(replica) == (["0", "again"], True)


async def test_a_damaged_picture_is_named_and_repaired_by_the_picture(replica: Replica, redis: Redis) -> None:
    style, _ = await replica.store.create([picture_of(1)], name="reeds")
    await redis.setrange(f"atelier:picture:{style.id}:0", 100, "damage")
    with pytest.raises(ServiceError, match=r"stored picture of style sty_.* is damaged") as caught:
        await replica.store.picture(style.id)
    assert caught.value.code == "style_damaged"
    with pytest.raises(ServiceError, match=r"stored picture of style sty_.* is damaged"):
        await replica.store.feature(style.id, LARGE)
    await replica.store.feature(style.id, SMALL)
    assert await replica.store.create([picture_of(1)], name="other") == (style, False)
    assert await replica.store.picture(style.id) == picture_of(1).content


async def test_a_record_of_a_newer_version_is_refused_and_unknown_fields_are_not(
    replica: Replica, redis: Redis
) -> None:
    style, _ = await replica.store.create([picture_of(1)], name=None)
    await redis.hset(f"atelier:style:{style.id}", "colour", "blue")
    assert await replica.store.get(style.id) == style
    await redis.hset(f"atelier:style:{style.id}", "format", "3")
    with capture_logs() as logs, pytest.raises(ServiceError, match="damaged"):
        await replica.store.get(style.id)
    assert "format is '3'" in logs[0]["reason"]


Fields = dict[str, st.SearchStrategy[Any]]
PICTURES: Fields = {
    "num_images": st.integers(1, 10),
    "image_width": st.integers(0, 2048),
    "image_height": st.integers(0, 2048),
    "image_media_type": st.text().map("image/{}".format),
}
TEXT: Fields = {
    "num_images": st.just(0),
    "source_text": st.builds(StyleText, st.text(), st.integers(0, 2**32 - 1)),
}
CODE: Fields = {"num_images": st.integers(1, 255)}
ANALYSES = st.builds(
    StyleAnalysis,
    code=st.text(),
    singular_values=st.lists(st.floats(0, 1e6), max_size=8).map(tuple),
    dominance=st.floats(0, 1),
    agreement=st.none() | st.floats(-1, 1),
)


@given(
    st.sampled_from((PICTURES, TEXT, CODE)).flatmap(
        lambda source: st.builds(
            Style,
            id=st.just("sty_x"),
            name=st.none() | st.text(),
            created=st.integers(0, 2**40),
            metadata=st.dictionaries(st.text(max_size=16), st.text(max_size=16), max_size=4),
            analysis=st.none() | ANALYSES,
            **source,
        )
    )
)
def test_a_record_reads_back_as_it_was_written(style: Style) -> None:
    fields = {name.encode(): str(value).encode() for name, value in to_hash(style, "abc").items()}
    assert from_hash(style.id, fields, "abc") == style
    assert from_hash(style.id, fields, "def") == replace(style, analysis=None)


@given(st.binary(max_size=64), st.data())
def test_a_checksum_shows_any_changed_or_missing_byte(content: bytes, draw: st.DataObject) -> None:
    stored = add_checksum(FEATURE, content)
    assert verify_checksum(FEATURE, stored) == content
    with pytest.raises(ValueError, match="begins with"):
        verify_checksum(PICTURE, stored)
    at = draw.draw(st.integers(0, len(stored) - 1))
    changed = stored[:at] + bytes([stored[at] ^ draw.draw(st.integers(1, 255))]) + stored[at + 1 :]
    for damaged in (changed, stored[:at]):
        with pytest.raises(ValueError, match=r"begins with|checksum|too few"):
            verify_checksum(FEATURE, damaged)
