"""A store's files damaged for real: what is said, what a repair keeps, what is never lost in silence."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from service.cli.main import cli
from service.storage.client import connect
from service.storage.embedded_valkey.append_log import MANIFEST, find_damage
from service.storage.embedded_valkey.files import EmbeddedValkeyError, find_binary
from service.storage.embedded_valkey.server import EmbeddedValkey
from tests.support.styles import Replica, picture_of
from tests.support.valkey import running_server, size_of_log

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Written:
    """A stopped store with three styles, and where its log ended after each."""

    data_dir: Path
    style_ids: list[str]
    ends: list[int]

    @property
    def log_folder(self) -> Path:
        return self.data_dir / "store" / "appendonlydir"

    @property
    def log(self) -> Path:
        (path,) = self.log_folder.glob("*.incr.aof")
        return path

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.log_folder.iterdir()}


async def write_styles(redis: Redis, server: EmbeddedValkey) -> tuple[list[str], list[int]]:
    style_ids, ends = [], []
    for seed in range(3):
        style, _ = await Replica(redis).store.create([picture_of(seed)], name=f"style {seed}")
        style_ids.append(style.id)
        ends.append(size_of_log(server))
    return style_ids, ends


@pytest.fixture
async def written(tmp_path: Path) -> Written:
    data_dir = tmp_path / "the data"
    async with running_server(data_dir) as server, connect(server.url) as redis:
        style_ids, ends = await write_styles(redis, server)
    return Written(data_dir, style_ids, ends)


async def styles_that_are_there(data_dir: Path) -> dict[str, bytes]:
    """The IDs of the styles, each with its picture, which must be the one that was uploaded."""
    found = {}
    async with running_server(data_dir) as server, connect(server.url) as redis:
        store = Replica(redis).store
        page = await store.list(limit=10, after=None, order="asc")
        for style in page.styles:
            found[style.id] = await store.picture(style.id)
    return found


async def atelier_store(*arguments: str | Path, typed: str = "") -> Result:
    """The command, in a thread, as it runs an event loop of its own."""
    words = ["store", *map(str, arguments)]
    return await asyncio.to_thread(CliRunner().invoke, cli, words, input=typed)


def overwrite(path: Path, position: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(content)


def picture_length(written: Written, number: int) -> re.Match[bytes]:
    """The length that the log gives for the picture of a style."""
    key = b"atelier:picture:" + written.style_ids[number].encode() + rb":0\r\n\$(\d+)\r\n"
    match = re.search(key, written.log.read_bytes())
    assert match is not None
    return match


def flip_a_length(written: Written) -> None:
    """The picture of the second style seems to be longer than the whole log."""
    start, end = picture_length(written, 1).span(1)
    overwrite(written.log, start, b"9" * (end - start))


def zero_a_block(written: Written) -> None:
    overwrite(written.log, written.ends[0] + 20, bytes(100))


def change_a_command(written: Written) -> None:
    position = written.log.read_bytes().index(b"\r\nHSET\r\n", written.ends[0])
    overwrite(written.log, position, b"\r\nHSEX\r\n")


def write_junk_at_the_end(written: Written) -> None:
    with written.log.open("ab") as file:
        file.write(b"neither a command nor zeros")


@pytest.mark.parametrize(
    ("damage", "num_kept", "reason"),
    [
        (flip_a_length, 1, "ends within a command"),
        (zero_a_block, 1, "begins no command|does not end where it should"),
        (change_a_command, 1, "'HSEX' is no command of Valkey"),
        (write_junk_at_the_end, 3, "begins no command"),
    ],
)
async def test_a_repair_keeps_every_style_before_the_damage_and_a_copy_of_the_rest(
    written: Written, damage: Callable[[Written], None], num_kept: int, reason: str
) -> None:
    damage(written)
    damaged = written.contents()
    with pytest.raises(
        EmbeddedValkeyError, match=f"atelier store (check|repair) --data-dir '{written.data_dir}'"
    ):
        await EmbeddedValkey(written.data_dir).start()
    assert written.contents() == damaged  # a failed start changes nothing

    checked = await atelier_store("check", "--data-dir", written.data_dir)
    assert checked.exit_code == 1
    assert re.search(reason, checked.stderr)
    assert f"after {written.ends[num_kept - 1]:,} of its" in checked.stderr
    assert "atelier store repair" in checked.stderr
    for lost in written.style_ids[num_kept:]:
        assert lost in checked.stderr
    assert written.contents() == damaged

    declined = await atelier_store("repair", "--data-dir", written.data_dir, typed="n\n")
    assert declined.exit_code == 1
    assert written.contents() == damaged

    repaired = await atelier_store("repair", "--data-dir", written.data_dir, typed="y\n")
    assert repaired.exit_code == 0, repaired.stderr
    assert f"has {num_kept} styles" in repaired.stdout
    (backup,) = (written.data_dir / "store").glob("damaged-*")
    assert (backup / written.log.name).read_bytes() == damaged[written.log.name]
    expected = {written.style_ids[seed]: picture_of(seed).content for seed in range(num_kept)}
    assert await styles_that_are_there(written.data_dir) == expected
    assert (await atelier_store("check", "--data-dir", written.data_dir)).exit_code == 0


@pytest.mark.parametrize("content", [None, b"", b"file nonsense\n", b"\0" * 88])
async def test_a_manifest_is_written_again_from_the_names_of_the_files(
    written: Written, content: bytes | None
) -> None:
    manifest = written.log_folder / MANIFEST
    original = manifest.read_bytes()
    manifest.unlink() if content is None else manifest.write_bytes(content)
    others = {name: found for name, found in written.contents().items() if name != MANIFEST}
    with pytest.raises(EmbeddedValkeyError, match=r"manifest is (missing|damaged).* `atelier store repair"):
        await EmbeddedValkey(written.data_dir).start()
    assert written.contents().items() >= others.items()  # Valkey alone would have begun an empty store
    repaired = await atelier_store("repair", "--yes", "--data-dir", written.data_dir)
    assert repaired.exit_code == 0, repaired.stderr
    assert manifest.read_bytes() == original
    assert list(await styles_that_are_there(written.data_dir)) == written.style_ids


@pytest.fixture
async def two_increments(tmp_path: Path) -> tuple[Written, list[Path]]:
    """A store whose base file has the first three styles, and that stopped in the next rewrite."""
    data_dir = tmp_path / "data"
    async with running_server(data_dir) as server, connect(server.url) as redis:
        style_ids, ends = await write_styles(redis, server)
        await redis.bgrewriteaof()
        while (await redis.info("persistence"))["aof_rewrite_in_progress"]:
            pass
        more, _ = await Replica(redis).store.create([picture_of(7)], name=None)
    written = Written(data_dir, [*style_ids, more.id], ends)
    second = written.log.with_name("appendonly.aof.3.incr.aof")
    second.write_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n")
    with (written.log_folder / MANIFEST).open("a") as manifest:
        manifest.write(f"file {second.name} seq 3 type i\n")
    return written, sorted(written.log_folder.glob("*.incr.aof"))


async def test_a_damaged_base_file_cannot_be_repaired_and_is_left_alone(
    two_increments: tuple[Written, list[Path]],
) -> None:
    written, _ = two_increments
    (base,) = written.log_folder.glob("*.base.rdb")
    overwrite(base, base.stat().st_size // 2, b"damage")
    damaged = written.contents()
    with pytest.raises(EmbeddedValkeyError, match=r"base\.rdb is damaged: .* Put a copy of the folder back"):
        await EmbeddedValkey(written.data_dir).start()
    repaired = await atelier_store("repair", "--yes", "--data-dir", written.data_dir)
    assert repaired.exit_code == 1
    assert "cannot be repaired" in repaired.stdout
    assert written.contents() == damaged
    base.unlink()
    checked = await atelier_store("check", "--data-dir", written.data_dir)
    assert checked.exit_code == 1
    assert f"{base.name} is missing" in checked.stderr


@pytest.mark.parametrize("is_first_missing", [True, False])
async def test_what_follows_a_missing_file_is_kept_in_the_copy(
    two_increments: tuple[Written, list[Path]], is_first_missing: bool
) -> None:
    written, (first, second) = two_increments
    missing = first if is_first_missing else second
    missing.unlink()
    with pytest.raises(EmbeddedValkeyError, match=f"{missing.name} is missing.* `atelier store repair"):
        await EmbeddedValkey(written.data_dir).start()
    repaired = await atelier_store("repair", "--yes", "--data-dir", written.data_dir)
    assert repaired.exit_code == 0, repaired.stderr
    (backup,) = (written.data_dir / "store").glob("damaged-*")
    assert (backup / second.name).exists() == is_first_missing
    expected = written.style_ids[:3] if is_first_missing else written.style_ids
    assert list(await styles_that_are_there(written.data_dir)) == expected


async def test_a_file_damaged_before_the_last_one_is_cut_and_the_last_one_goes(
    two_increments: tuple[Written, list[Path]],
) -> None:
    written, (first, second) = two_increments
    os.truncate(first, first.stat().st_size - 3)
    with pytest.raises(EmbeddedValkeyError, match=f"What follows in {second.name}"):
        await EmbeddedValkey(written.data_dir).start()
    assert (await atelier_store("repair", "--yes", "--data-dir", written.data_dir)).exit_code == 0
    assert list(await styles_that_are_there(written.data_dir)) == written.style_ids[:3]
    (backup,) = (written.data_dir / "store").glob("damaged-*")
    assert {first.name, second.name} <= {path.name for path in backup.iterdir()}


async def test_two_base_files_without_a_manifest_are_not_guessed_at(written: Written) -> None:
    (base,) = written.log_folder.glob("*.base.rdb")
    base.with_name("appendonly.aof.2.base.rdb").write_bytes(base.read_bytes())
    (written.log_folder / MANIFEST).unlink()
    damage = find_damage(written.log_folder, find_binary())
    assert damage is not None
    assert not damage.can_be_repaired
    assert "one base file" in damage.reason


@pytest.mark.parametrize("num_lost", range(1, 60, 7))
async def test_a_log_that_ends_within_its_last_write_starts_without_that_write(
    written: Written, num_lost: int
) -> None:
    os.truncate(written.log, written.ends[2] - num_lost)
    assert list(await styles_that_are_there(written.data_dir)) == written.style_ids[:2]
    assert written.log.stat().st_size >= written.ends[1]


async def test_a_whole_store_is_left_as_it_is(written: Written) -> None:
    before = written.contents()
    checked = await atelier_store("check", "--data-dir", written.data_dir)
    assert re.search(r"is whole: [1-9]\d* commands", checked.stdout)
    repaired = await atelier_store("repair", "--data-dir", written.data_dir)
    assert "nothing was changed" in repaired.stdout
    assert "has 3 styles" in repaired.stdout
    assert written.contents() == before


async def test_a_store_in_use_or_none_at_all_is_told_in_a_sentence(tmp_path: Path) -> None:
    async with running_server(tmp_path):
        for name in ("check", "repair"):
            used = await atelier_store(name, "--data-dir", tmp_path)
            assert used.exit_code == 1
            assert "Another Atelier service" in used.stderr
    none = await atelier_store("check", "--data-dir", tmp_path / "nowhere")
    assert none.exit_code == 1
    assert "There is no style store in" in none.stderr
    assert not (tmp_path / "nowhere").exists()
