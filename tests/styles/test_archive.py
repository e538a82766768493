"""Archives of styles: what is in them, what an import does, and what it refuses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from service.metrics import Metrics
from service.storage.client import connect
from service.storage.schema import picture_key, record_key
from service.styles.archive import Import, export_styles, import_styles
from service.styles.archive_file import check_archive
from service.styles.record import StyleText, style_id_of
from service.styles.repository import StyleRepository
from tests.support.pictures import png
from tests.support.styles import SMALL, Replica, keys_of_styles, picture_of
from tests.support.valkey import running_server

pytestmark = pytest.mark.slow

Files = dict[str, bytes]


@pytest.fixture
async def archive(redis: Redis, tmp_path: Path) -> Path:
    """Of five styles: one picture, two pictures, words and a code; and one of another tenant."""
    store = Replica(redis).store
    first, _ = await store.create([picture_of(1)], name='"é" \n', metadata={"for": "covers"})
    await store.create([picture_of(2), picture_of(3)], name=None)
    await store.create(StyleText("neon", 5), name=None)
    assert first.analysis is not None
    await store.create(first.analysis.code, name="of a code")
    await store.of("acme").create([picture_of(1)], name="of acme")
    done = await export_styles(repository(redis), tmp_path / "styles.tar")
    assert (done.num_styles, done.damaged) == (5, ())
    return tmp_path / "styles.tar"


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Redis]:
    """Another store."""
    async with running_server(tmp_path / "empty") as server, connect(server.url) as redis:
        yield redis


def repository(redis: Redis) -> StyleRepository:
    return StyleRepository(redis, fingerprint="", metrics=Metrics())


def read(path: Path) -> bytes:
    return path.read_bytes()


def save(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def files_of(path: Path) -> Files:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def write(path: Path, files: Files, *, sums: bool = True) -> None:
    """An archive of these files, with new checksums unless `sums` is False."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        if sums:
            lines = [
                f"{hashlib.sha256(content).hexdigest()}  {name}\n"
                for name, content in files.items()
                if name != "SHA256SUMS"
            ]
            files = {name: content for name, content in files.items() if name != "SHA256SUMS"}
            files["SHA256SUMS"] = "".join(lines).encode()
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


async def test_everything_that_lasts_of_a_style_is_there_again(
    archive: Path, redis: Redis, empty: Redis
) -> None:
    assert await import_styles(repository(empty), archive) == Import(num_new=5, num_existing=0)
    derived = (b":feature", b":bytes")  # which can be made from the rest
    kept = [key for key in await keys_of_styles(redis) if not any(part in key for part in derived)]
    assert sorted(kept) == sorted(await keys_of_styles(empty))
    for key in kept:
        if await redis.type(key) == b"hash":
            assert await redis.hgetall(key) == await empty.hgetall(key)
        elif b":picture:" in key:
            assert await redis.get(key) == await empty.get(key)
    before, after = Replica(redis).store, Replica(empty).store
    for tenant in ("", "acme"):
        listed = [await store.of(tenant).list(limit=9, after=None, order="desc") for store in (before, after)]
        assert listed[0] == listed[1]
        for style in listed[0].styles:
            features = [await store.of(tenant).feature(style.id, SMALL) for store in (before, after)]
            assert features[0].to_bytes() == features[1].to_bytes()


def test_an_archive_needs_no_code_of_ours(archive: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    summed = subprocess.check_output(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path)
    assert summed.count(b": OK") == 10
    style_id = style_id_of([picture_of(1).digest])
    described = json.loads((tmp_path / style_id / "style.json").read_text())
    assert described["record"]["name"] == '"é" \n'
    assert described["record"]["metadata"] == {"for": "covers"}
    assert (tmp_path / style_id / described["pictures"][0]).read_bytes() == picture_of(1).content


async def test_an_import_can_be_interrupted_and_run_again(archive: Path, empty: Redis) -> None:
    seen: list[int] = []

    def interrupt() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await import_styles(repository(empty), archive, interrupt)
    assert await import_styles(repository(empty), archive) == Import(num_new=3, num_existing=2)
    assert await import_styles(repository(empty), archive) == Import(num_new=0, num_existing=5)


async def test_a_style_that_is_there_keeps_its_name_and_a_damaged_one_is_repaired(
    archive: Path, redis: Redis
) -> None:
    style_id = style_id_of([picture_of(1).digest])
    await Replica(redis).store.change(style_id, {"name": "renamed"})
    two = style_id_of([picture_of(2).digest, picture_of(3).digest])
    await redis.set(picture_key(two, 1), b"damaged")
    exported = await export_styles(repository(redis), archive.with_name("later.tar"))
    assert (exported.num_styles, exported.damaged) == (4, (two,))
    assert await import_styles(repository(redis), archive) == Import(num_new=1, num_existing=4)
    assert (await Replica(redis).store.get(style_id)).name == "renamed"
    assert await Replica(redis).store.picture(two, 1) == picture_of(3).content


async def test_a_failed_export_leaves_the_file_of_before(archive: Path, redis: Redis) -> None:
    before = files_of(archive)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await export_styles(repository(redis), archive, fail)
    assert files_of(archive) == before
    assert [name for name in os.listdir(archive.parent) if ".tar" in name] == [archive.name]


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Files], None]:
    """A change of the first JSON whose name ends so."""

    def edit(files: Files) -> None:
        path = next(path for path in files if path.endswith(name))
        content = json.loads(files[path])
        change(content)
        files[path] = json.dumps(content).encode()

    return edit


def with_picture(content: bytes) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        files[next(path for path in files if path.endswith("0.webp"))] = content

    return edit


def renamed(new: str) -> Callable[[Files], None]:
    def edit(files: Files) -> None:
        files[new] = files.pop(next(path for path in files if path.endswith("0.webp")))

    return edit


KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME]
BOMB = png(20_000, 20_000, 8, 2, b"")
HOSTILE: dict[str, tuple[Callable[[Files], object], str]] = {
    "another picture": (with_picture(picture_of(9).content), "is not the ID of what the style was made from"),
    "a decompression bomb": (with_picture(BOMB), "at most 2.09715 million are accepted"),
    "no picture": (with_picture(b"#!/bin/sh"), "is refused"),
    "a picture outside": (renamed("../../0.webp"), "'../../0.webp', which no archive of styles has"),
    "an absolute path": (renamed("/etc/0.webp"), "'/etc/0.webp', which no archive of styles has"),
    "a picture that is missing": (renamed("sty_" + "a" * 26 + "/0.webp"), "0.webp is missing"),
    "another version": (edited("atelier.json", lambda head: head.update(version=2)), "of version 1"),
    "another ID": (edited("style.json", lambda style: style.update(id="sty_" + "a" * 26)), "not its own"),
    "another tenant": (edited("style.json", lambda style: style.update(tenant="acme")), "not its tenant's"),
    "an unknown field": (edited("style.json", lambda style: style.update(run="x")), "run: Extra inputs"),
    "too many pictures": (
        edited("style.json", lambda style: style.update(pictures=["0.webp"] * 11)),
        "at most 10 items",
    ),
    "a damaged record": (
        edited("style.json", lambda style: style["record"].update(created="soon")),
        "created is 'soon'",
    ),
    "a picture too few": (edited("style.json", lambda style: style.update(pictures=[])), "has 0 pictures"),
    "other words": (
        lambda files: files.update(
            {path: content.replace(b'"neon"', b'"noon"') for path, content in files.items()}
        ),
        "is not the ID of what the style was made from",
    ),
}


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
async def test_what_is_not_as_its_id_says_is_refused_in_a_sentence(
    archive: Path, empty: Redis, change: Callable[[Files], object], reason: str
) -> None:
    files = files_of(archive)
    change(files)
    write(archive, files)
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        await import_styles(repository(empty), archive)
    assert str(refused.value).startswith(f"{archive} cannot be imported: ")
    assert str(refused.value).endswith(" It must be as `atelier styles export` wrote it.")
    words = style_id_of(text=StyleText("neon", 5))
    assert not await empty.exists(record_key(words))  # nor any other that follows the one that is refused


async def test_damage_is_found_before_anything_is_written(archive: Path, empty: Redis) -> None:
    whole, files = read(archive), files_of(archive)
    names = list(files)
    without_end = {name: files[name] for name in names if name != "SHA256SUMS"}
    damaged = {
        "truncated header|unexpected end of data|its end is missing": whole[: len(whole) // 2],
        "empty file": b"",
        "invalid header|truncated header|bad checksum": gzip.compress(whole),
        f"{names[1]} does not have the checksum": whole.replace(b'"covers"', b'"lovers"'),
    }
    for reason, content in damaged.items():
        save(archive, content)
        with pytest.raises(ValueError, match=reason):
            await import_styles(repository(empty), archive)
    for reason, changed in {
        "its end is missing": without_end,
        "0.webp does not have the checksum": {n: c for n, c in files.items() if not n.endswith("0.webp")},
        "follows where nothing may follow": files | {"sty_" + "a" * 26 + "/style.json": b"{}"},
        "does not begin with an atelier.json": {n: c for n, c in files.items() if n != "atelier.json"},
    }.items():
        write(archive, changed, sums=False)
        with pytest.raises(ValueError, match=reason):
            await import_styles(repository(empty), archive)
    assert await empty.keys() == []


@pytest.mark.parametrize("kind", KINDS)
def test_only_plain_files_are_read(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("atelier.json")
    member.type, member.linkname = kind, "/etc/passwd"
    (tmp_path / "styles.tar").write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(ValueError, match="which no archive of styles has"):
        check_archive(tmp_path / "styles.tar")


def test_a_size_is_believed_only_within_bounds(tmp_path: Path) -> None:
    member = tarfile.TarInfo("sty_" + "a" * 26 + "/0.webp")
    for size, reason in ((7 * 2**30, "bytes, more than any style"), (2**20, "unexpected end of data")):
        member.size = size
        (tmp_path / "styles.tar").write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
        with pytest.raises(ValueError, match=reason):
            check_archive(tmp_path / "styles.tar")
