"""What a style is made of: several pictures, a text, a code; and what of it lasts on a real server."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from redis.asyncio import Redis
from safetensors.numpy import load, save
from structlog.testing import capture_logs

from service.errors import InvalidRequest, ServiceError, StoreUnavailable, StyleNotFound
from service.model.infinity.style import agreement
from service.model.style.feature import dominance
from service.model.style.tokens import PREPARATION
from service.storage.checksummed import FEATURE, PICTURE, add_checksum
from service.storage.client import connect
from service.storage.embedded_valkey.server import EmbeddedValkey
from service.styles.record import Style, StyleText
from service.styles.style_code import StyleCodec
from tests.support.styles import (
    LARGE,
    SMALL,
    Replica,
    feature_of,
    feature_of_text,
    keys_of_styles,
    mean_of,
    picture_of,
)

OTHER_MODEL = "fedcba9876543210"
NEON = StyleText("neon on black", 0)
CODEC = StyleCodec("tiny", "0123456789abcdef", lambda tokens: None)


@pytest.fixture
async def replica(redis: Redis) -> Replica:
    return Replica(redis)


async def forget_features(redis: Redis) -> None:
    await redis.delete(*await redis.keys("atelier:feature:*"))


def code_of(style: Style) -> str:
    assert style.analysis is not None
    return style.analysis.code


# --- several pictures ---------------------------------------------------------------------------------------


async def test_several_pictures_are_one_style_of_their_mean(replica: Replica) -> None:
    pictures = [picture_of(i) for i in range(3)]
    style, is_new = await replica.store.create(pictures, name="reeds")
    assert is_new
    assert (style.num_images, style.source) == (3, "images")
    mean = mean_of([feature_of(picture, SMALL) for picture in pictures])
    assert (await replica.store.feature(style.id, SMALL)).to_bytes() == mean.to_bytes()
    for number, picture in enumerate(pictures):
        assert await replica.store.picture(style.id, number) == picture.content
    with pytest.raises(StyleNotFound, match=r"no picture 3 of style .* has 3") as caught:
        await replica.store.picture(style.id, 3)
    assert (caught.value.code, caught.value.param) == ("style_image_not_found", "index")


async def test_the_same_pictures_are_the_same_style_in_any_order_and_each_counts_once(
    replica: Replica,
) -> None:
    one, two, three = (picture_of(i) for i in range(3))
    style, _ = await replica.store.create([one, two, three], name="first")
    assert await replica.store.create([three, one, two, one], name="again") == (style, False)
    assert (await replica.store.create([one, two], name=None))[0].id != style.id
    alone, _ = await replica.store.create([one], name=None)
    assert await replica.store.create([one, one], name=None) == (alone, False)


async def test_a_lost_feature_of_several_pictures_is_rebuilt_from_all_of_them(
    replica: Replica, redis: Redis
) -> None:
    pictures = [picture_of(i) for i in range(3)]
    style, _ = await replica.store.create(pictures, name=None)
    await forget_features(redis)
    other = Replica(redis)
    for size in (SMALL, LARGE):
        mean = mean_of([feature_of(picture, size) for picture in pictures])
        assert (await other.store.feature(style.id, size)).to_bytes() == mean.to_bytes()
    assert len(other.extractor.seen) == 6


async def test_any_damaged_picture_of_several_is_found_and_repaired(replica: Replica, redis: Redis) -> None:
    pictures = [picture_of(i) for i in range(3)]
    style, _ = await replica.store.create(pictures, name="reeds")
    await redis.delete(f"atelier:picture:{style.id}:2")
    with pytest.raises(ServiceError, match=r"stored picture of style sty_.* is damaged"):
        await replica.store.feature(style.id, LARGE)
    assert await replica.store.create(pictures, name="other") == (style, False)
    assert await replica.store.picture(style.id, 2) == pictures[2].content


async def test_a_style_tells_its_spectrum_its_dominance_and_how_far_its_pictures_agree(
    replica: Replica,
) -> None:
    pictures = [picture_of(i) for i in range(3)]
    style, _ = await replica.store.create(pictures, name=None)
    mean = mean_of([feature_of(picture, SMALL) for picture in pictures])
    assert style.analysis is not None
    assert np.allclose(style.analysis.singular_values, mean.singular_values, rtol=1e-5)
    assert style.analysis.dominance == pytest.approx(dominance(mean), rel=1e-5)
    assert style.analysis.agreement == pytest.approx(agreement(mean), rel=1e-5)
    alone, _ = await replica.store.create([pictures[0]], name=None)
    assert alone.analysis is not None
    assert alone.analysis.agreement is None


# --- text ---------------------------------------------------------------------------------------------------


async def test_words_become_a_style_without_pictures(replica: Replica) -> None:
    style, is_new = await replica.store.create(NEON, name="neon")
    assert is_new
    assert (style.source, style.source_text, style.num_images, style.image_width) == ("text", NEON, 0, None)
    assert await replica.store.get(style.id) == style
    feature = await replica.store.feature(style.id, SMALL)
    assert feature.to_bytes() == feature_of_text(NEON, replica.extractor.fingerprint).to_bytes()
    with pytest.raises(StyleNotFound, match="made without pictures"):
        await replica.store.picture(style.id)


async def test_the_same_words_and_seed_are_the_same_style(replica: Replica) -> None:
    style, _ = await replica.store.create(NEON, name="neon")
    assert await replica.store.create(NEON, name="again") == (style, False)
    assert replica.extractor.extracted_texts == [NEON]
    for other in (StyleText("neon on black", 1), StyleText("neon on black ", 0)):
        assert (await replica.store.create(other, name=None))[0].id != style.id


async def test_words_that_were_read_once_are_not_read_again(replica: Replica, redis: Redis) -> None:
    """So that a style keeps its look, whatever becomes of the transformer."""
    style, _ = await replica.store.create(NEON, name=None)
    await forget_features(redis)
    later = Replica(redis)
    kept = feature_of_text(NEON, replica.extractor.fingerprint)
    for size in (SMALL, LARGE):
        restored = later.extractor.restore(kept.tokens, size)
        assert (await later.store.feature(style.id, size)).to_bytes() == restored.to_bytes()
    assert later.extractor.extracted_texts == []


async def test_another_model_reads_the_words_for_itself_once(replica: Replica, redis: Redis) -> None:
    style, _ = await replica.store.create(NEON, name=None)
    newer = Replica(redis, fingerprint=OTHER_MODEL)
    bits = feature_of_text(NEON, OTHER_MODEL).tokens
    feature = await newer.store.feature(style.id, LARGE)
    assert feature.to_bytes() == newer.extractor.restore(bits, LARGE).to_bytes()
    await forget_features(redis)
    later = Replica(redis, fingerprint=OTHER_MODEL)
    await later.store.feature(style.id, SMALL)
    assert (newer.extractor.extracted_texts, later.extractor.extracted_texts) == ([NEON], [])
    assert code_of(await newer.store.get(style.id)) != code_of(style)
    assert await replica.store.get(style.id) == style


# --- codes --------------------------------------------------------------------------------------------------


async def test_a_code_works_on_a_replica_without_its_store(valkey: EmbeddedValkey, replica: Replica) -> None:
    style, _ = await replica.store.create([picture_of(1), picture_of(2)], name=None)
    feature = await replica.store.feature(style.id, SMALL)
    await valkey.stop()
    async with connect(valkey.url) as nowhere:
        other = Replica(nowhere)
        for _ in range(2):
            restored = await other.store.feature(code_of(style), SMALL)
            assert restored.to_bytes() == feature.to_bytes()
        assert (await other.store.feature(code_of(style), LARGE)).extent != feature.extent
        described = await other.store.get(code_of(style))
        assert (described.analysis, described.created) == (style.analysis, None)
        assert [other.count(result) for result in ("hit", "miss", "rebuilt")] == [2, 2, 0]
        assert other.num_errors() == 0


async def test_a_foreign_or_damaged_code_is_refused_by_the_name_of_its_field(
    replica: Replica, redis: Redis
) -> None:
    style, _ = await replica.store.create([picture_of(1)], name=None)
    with pytest.raises(InvalidRequest, match="fingerprint 0123456789abcdef; tiny") as caught:
        await Replica(redis, fingerprint=OTHER_MODEL).store.feature(
            code_of(style), SMALL, param="styles.1.id"
        )
    assert (caught.value.code, caught.value.param) == ("foreign_style_code", "styles.1.id")
    for operation in (
        replica.store.feature(code_of(style)[:-1], SMALL),
        replica.store.get(code_of(style)[:-1]),
        replica.store.create(code_of(style)[:-1], name=None),
    ):
        with pytest.raises(InvalidRequest, match="no sound style code"):
            await operation


async def test_a_code_is_nothing_that_can_be_changed_or_deleted(replica: Replica) -> None:
    style, _ = await replica.store.create([picture_of(1)], name=None)
    for operation in (
        replica.store.change(code_of(style), {"name": "x"}),
        replica.store.picture(code_of(style)),
        replica.store.delete(code_of(style)),
    ):
        with pytest.raises(StyleNotFound, match="is not kept here"):
            await operation


async def test_a_code_can_be_kept_as_a_style_of_its_own(replica: Replica, redis: Redis) -> None:
    made, _ = await replica.store.create([picture_of(1), picture_of(2)], name=None)
    kept, is_new = await replica.store.create(code_of(made), name="from afar")
    assert is_new
    assert kept.id != made.id
    assert (kept.source, kept.num_images, kept.analysis) == ("code", 2, made.analysis)
    assert await replica.store.create(code_of(made), name=None) == (kept, False)
    await forget_features(redis)
    other = Replica(redis)
    expected = other.extractor.restore(
        mean_of([feature_of(picture_of(i), SMALL) for i in (1, 2)]).tokens, LARGE
    )
    assert (await other.store.feature(kept.id, LARGE)).to_bytes() == expected.to_bytes()


async def test_another_model_says_that_it_cannot_draw_in_a_kept_code(replica: Replica, redis: Redis) -> None:
    made, _ = await replica.store.create([picture_of(1)], name=None)
    kept, _ = await replica.store.create(code_of(made), name="from afar")
    newer = Replica(redis, fingerprint=OTHER_MODEL)
    seen = await newer.store.get(kept.id)
    assert (seen.name, seen.analysis) == ("from afar", None)
    with pytest.raises(InvalidRequest, match="another model") as caught:
        await newer.store.feature(kept.id, SMALL)
    assert (caught.value.code, caught.value.param) == ("foreign_style_code", "style")


# --- what lasts ---------------------------------------------------------------------------------------------


async def test_name_and_metadata_can_be_changed_and_removed(replica: Replica) -> None:
    style, _ = await replica.store.create([picture_of(1)], name="reeds", metadata={"by": "me"})
    store = replica.store
    renamed = await store.change(style.id, {"name": "rushes"})
    assert (renamed.name, renamed.metadata) == ("rushes", {"by": "me"})
    noted = await store.change(style.id, {"metadata": {"ü": "", "to": "you"}})
    assert (noted.name, noted.metadata) == ("rushes", {"ü": "", "to": "you"})
    assert await store.change(style.id, {}) == noted == await store.get(style.id)
    bare = await store.change(style.id, {"name": None, "metadata": None})
    assert (bare.name, bare.metadata, bare.analysis) == (None, {}, style.analysis)
    with pytest.raises(StyleNotFound):
        await store.change("sty_" + "a" * 26, {"name": "x"})


async def test_a_style_deleted_during_a_change_stays_deleted(replica: Replica, redis: Redis) -> None:
    style, _ = await replica.store.create([picture_of(1)], name=None)
    await Replica(redis).store.delete(style.id)
    with pytest.raises(StyleNotFound):
        await replica.store.change(style.id, {"name": "x"})
    assert await keys_of_styles(redis) == [b"atelier:sequence"]


async def test_deleting_any_style_leaves_nothing_behind(replica: Replica, redis: Redis) -> None:
    pictures, _ = await replica.store.create(
        [picture_of(i) for i in range(10)], name="x", metadata={"a": "b"}
    )
    text, _ = await replica.store.create(NEON, name=None)
    code, _ = await replica.store.create(code_of(pictures), name=None)
    for style in (pictures, text, code):
        await replica.store.feature(style.id, LARGE)
        await replica.store.change(style.id, {"name": "y"})
    assert len(await redis.keys("atelier:picture:*")) == 10
    for style in (pictures, text, code):
        await replica.store.delete(style.id)
        assert [key for key in await keys_of_styles(redis) if style.id.encode() in key] == []
    assert await keys_of_styles(redis) == [b"atelier:sequence"]
    assert (await replica.store.list(limit=10, after=None, order="asc")).styles == ()


async def write_as_the_first_version_did(redis: Redis) -> str:
    """A style of picture 1, key by key."""
    style_id = "sty_6r2mwjmlb64ttqkp5qy777m54k"
    picture = picture_of(1)
    arrays = load(feature_of(picture, SMALL).to_bytes())
    del arrays["num_images"]
    feature_key = f"atelier:feature:{style_id}:0123456789abcdef:64x64"
    await redis.set(f"atelier:picture:{style_id}:0", add_checksum(PICTURE, picture.content))
    await redis.hset(
        f"atelier:style:{style_id}",
        mapping={
            "format": "1",
            "created": 1_600_000_000,
            "num_images": 1,
            "image_width": 24,
            "image_height": 20,
            "image_media_type": picture.media_type,
            "name": "reeds",
        },
    )
    await redis.set(feature_key, add_checksum(FEATURE, save(arrays)), ex=1000)
    await redis.sadd(f"atelier:features:{style_id}", feature_key)
    await redis.zadd("atelier:index", {style_id: await redis.incr("atelier:sequence")})
    return style_id


async def test_a_style_of_the_first_version_works_and_is_analysed_when_read(
    replica: Replica, redis: Redis
) -> None:
    style_id = await write_as_the_first_version_did(redis)
    (listed,) = (await replica.store.list(limit=1, after=None, order="asc")).styles
    assert (listed.id, listed.name, listed.source, listed.analysis) == (style_id, "reeds", "images", None)
    style = await replica.store.get(style_id)
    assert replica.extractor.seen == []  # its kept feature is read as well
    feature = feature_of(picture_of(1), SMALL)
    codes = StyleCodec("tiny", "0123456789abcdef", replica.extractor.check_tokens)
    assert code_of(style) == codes.write(feature.tokens)
    assert (await Replica(redis).store.list(limit=1, after=None, order="asc")).styles == (style,)
    assert (await replica.store.feature(style_id, SMALL)).to_bytes() == feature.to_bytes()
    assert await replica.store.picture(style_id) == picture_of(1).content
    await replica.store.delete(style_id)
    assert await keys_of_styles(redis) == [b"atelier:sequence"]


async def test_a_full_store_shows_a_reading_that_it_cannot_keep(replica: Replica, redis: Redis) -> None:
    style_id = await write_as_the_first_version_did(redis)
    await redis.config_set("maxmemory", "1mb")
    assert (await replica.store.get(style_id)).analysis is not None
    with pytest.raises(StoreUnavailable, match="full"):
        await replica.store.change(style_id, {"name": "x"})
    await redis.config_set("maxmemory", "0")
    (listed,) = (await replica.store.list(limit=1, after=None, order="asc")).styles
    assert listed.analysis is None


async def test_a_picture_that_an_earlier_version_prepared_is_read_again_under_the_same_id(
    replica: Replica, redis: Redis
) -> None:
    """Its old code still draws what it drew, and a style of a text or a code has nothing to read again."""
    style, _ = await replica.store.create([picture_of(1)], name="Hall")
    assert style.analysis is not None
    key, current = f"atelier:style:{style.id}", f"reading:0123456789abcdef.{PREPARATION}"
    old_code = CODEC.write(feature_of(picture_of(2), SMALL).tokens)
    before = replace(style.analysis, code=old_code, dominance=0.5).to_json()
    await redis.hdel(key, current)
    await redis.hset(key, "reading:0123456789abcdef", before)
    await forget_features(redis)
    upgraded = Replica(redis)
    assert await upgraded.store.get(style.id) == style
    feature = await upgraded.store.feature(style.id, SMALL)
    assert feature.to_bytes() == feature_of(picture_of(1), SMALL).to_bytes()
    assert await redis.hget(key, current) is not None
    drawn = await upgraded.store.feature(old_code, SMALL)
    assert drawn.to_bytes() == feature_of(picture_of(2), SMALL).to_bytes()
    copied, _ = await upgraded.store.create(old_code, name=None)
    assert await redis.hget(f"atelier:style:{copied.id}", "reading:0123456789abcdef") is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reading:0123456789abcdef", "{"),
        ("reading:0123456789abcdef", '{"code": "sc1_"}'),
        ("reading:0123456789abcdef", json.dumps([])),
        ("metadata", '{"a": 1}'),
        ("metadata", "no"),
        ("seed", "minus one"),
    ],
)
async def test_a_damaged_field_is_named_and_repaired_by_the_words(
    replica: Replica, redis: Redis, field: str, value: str
) -> None:
    style, _ = await replica.store.create(NEON, name=None)
    await redis.hset(f"atelier:style:{style.id}", field, value)
    with pytest.raises(ServiceError, match=r"record of style .* is damaged") as caught:
        await replica.store.get(style.id)
    assert caught.value.code == "style_damaged"
    assert (await replica.store.create(NEON, name=None))[0] == style
    assert await replica.store.get(style.id) == style


async def test_a_damaged_code_in_a_record_is_named_and_repaired_by_the_words(
    replica: Replica, redis: Redis
) -> None:
    style, _ = await replica.store.create(NEON, name=None)
    key = f"atelier:style:{style.id}"
    assert style.analysis is not None
    damaged = replace(style.analysis, code="sc1_AAAA")
    await redis.hset(key, "reading:0123456789abcdef", damaged.to_json())
    await forget_features(redis)
    with capture_logs() as logs, pytest.raises(ServiceError, match=r"stored code of style .* is damaged"):
        await Replica(redis).store.feature(style.id, SMALL)
    assert "cut off" in logs[0]["reason"]
    assert await replica.store.create(NEON, name=None) == (style, False)
    assert await replica.store.get(style.id) == style
