"""`atelier fetch` against a hub on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from service.model.checkpoints.fetch import Hub
from service.model.checkpoints.fetch_record import FILE_NAME, read_record
from service.model.checkpoints.memory_budget import in_bytes
from service.model.checkpoints.registry import PRESETS
from service.model.infinity.presets import RELEASED
from tests.support.local_hub import LocalHub, blob, local_hub
from tests.support.process import ROOT, command

pytestmark = pytest.mark.slow

INFINITY, FLAN = "FoundationVision/Infinity", "google/flan-t5-xl"
AT_MAIN = {INFINITY: "main", FLAN: "main"}  # the local hub has neither the pinned commits nor their files
SHARD = "model-0000{}-of-00002.safetensors"
ENCODER, DECODER = SHARD.format(1), SHARD.format(2)


def shards(*names: tuple[str, ...], suffix: str = ".safetensors") -> dict[str, bytes]:
    """A shard for each tuple of names, and their index."""
    files = {SHARD.format(index): save({name: torch.zeros(400) for name in held})
             for index, held in enumerate(names, start=1)}  # fmt: skip
    weight_map = {name: SHARD.format(index) for index, held in enumerate(names, start=1) for name in held}
    return files | {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}


def content(size: int, letter: bytes) -> bytes:
    return letter * size


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    eight = {f"infinity_8b_weights/{name}": shard for name, shard in shards(("a",), ("b",)).items()}
    text = shards(("shared.weight", "encoder.x"), ("decoder.x", "lm_head.weight"))
    others = {"README.md": b"hello", "infinity_vae_d64.pth": content(3000, b"6")}
    repositories = {
        INFINITY: {
            "infinity_2b_reg.pth": content(25_000_000, b"2"),
            "infinity_vae_d32reg.pth": content(2000, b"v"),
            "infinity_vae_d56_f8_14_patchify.pth": content(2001, b"w"),
            **eight,
            **others,
        },
        FLAN: {
            "config.json": b"{}",
            "tokenizer.json": content(1500, b"t"),
            "pytorch_model.bin.index.json": b"{}",
            "pytorch_model-00001-of-00002.bin": content(4000, b"b"),
            "spiece.model": content(1200, b"s"),
            **text,
        },
    }
    with local_hub(repositories) as hub:
        yield hub


def test_a_plan_names_what_a_preset_needs_and_nothing_else(hub: LocalHub, tmp_path: Path) -> None:
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    assert [str(download.path.relative_to(tmp_path)) for download in plan.downloads] == [
        "infinity_2b_reg.pth",
        "infinity_vae_d32reg.pth",
        "flan-t5-xl/config.json",
        "flan-t5-xl/tokenizer.json",
        "flan-t5-xl/model.safetensors.index.json",
        f"flan-t5-xl/{ENCODER}",
    ]
    assert plan.num_missing_bytes == sum(download.num_bytes for download in plan.downloads) > 25_000_000
    assert f"{INFINITY} at main, which is commit {hub.commit(INFINITY)} now" in plan.table()
    assert "  25.00 MB  to fetch  " in plan.table()
    assert hub.fetched() == ["model.safetensors.index.json"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_shards_is_planned_by_its_index(hub: LocalHub, tmp_path: Path) -> None:
    plan = Hub(hub.url).plan("infinity-8b", tmp_path, AT_MAIN)
    names = [download.name for download in plan.downloads if download.repository == INFINITY]
    assert names == [
        "infinity_vae_d56_f8_14_patchify.pth",
        "infinity_8b_weights/model.safetensors.index.json",
        f"infinity_8b_weights/{ENCODER}",
        f"infinity_8b_weights/{DECODER}",
    ]


def test_a_commit_that_is_pinned_is_asked_for(hub: LocalHub, tmp_path: Path) -> None:
    revisions = {name: hub.commit(name) for name in (INFINITY, FLAN)}
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, revisions)
    assert f"{FLAN} at {hub.commit(FLAN)}\n" in plan.table()
    for source in RELEASED["infinity-2b"].sources:
        revisions = {INFINITY: "main", FLAN: "main"}
        del revisions[source.repository]
        with pytest.raises(ValueError, match=f"{source.repository} has no revision {source.revision}"):
            Hub(hub.url).plan("infinity-2b", tmp_path, revisions)


def test_fetching_brings_the_files_checked_and_again_brings_nothing(hub: LocalHub, tmp_path: Path) -> None:
    said: list[str] = []
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    Hub(hub.url).fetch(plan, said.append)
    for download in plan.downloads:
        assert download.path.read_bytes() == hub.repositories[download.repository][download.name]
    assert said[0] == f"{tmp_path / 'infinity_2b_reg.pth'}: 25.00 MB, checksum right"
    assert len(said) == len(plan.downloads)
    assert not (tmp_path / "flan-t5-xl" / DECODER).exists()
    assert plan.num_missing_bytes == 0
    hub.asked.clear()
    Hub(hub.url).fetch(plan, said.append)
    assert hub.fetched() == []


def test_files_that_were_there_before_are_checked_and_kept(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "infinity_2b_reg.pth").write_bytes(hub.repositories[INFINITY]["infinity_2b_reg.pth"])
    Hub(hub.url).fetch(Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN), lambda _: None)
    assert "infinity_2b_reg.pth" not in hub.fetched()


def test_a_file_that_was_damaged_where_it_lay_is_fetched_again(hub: LocalHub, tmp_path: Path) -> None:
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    (tmp_path / "infinity_vae_d32reg.pth").write_bytes(b"x" * 2000)
    Hub(hub.url).fetch(plan, lambda _: None)
    assert (tmp_path / "infinity_vae_d32reg.pth").read_bytes() == b"v" * 2000


def test_two_fetches_do_not_write_the_same_files(hub: LocalHub, tmp_path: Path) -> None:
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)

    def again(_: str) -> None:
        Hub(hub.url).fetch(plan, lambda _: None)

    with pytest.raises(ValueError, match=f"Another `atelier fetch` is at work in {tmp_path}"):
        Hub(hub.url).fetch(plan, again)


def test_a_transfer_that_broke_off_goes_on_where_it_did(hub: LocalHub, tmp_path: Path) -> None:
    name = "infinity_2b_reg.pth"
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    hub.cut_after[name] = 15_000_000
    hub.forbidden.add(name)
    with pytest.raises(
        ValueError, match=rf"{INFINITY} could not be read .* the same command goes on from there"
    ):
        Hub(hub.url).fetch(plan, lambda _: None)
    assert not plan.downloads[0].is_ready
    assert 10_000_000 <= plan.downloads[0].num_missing_bytes <= 15_000_000
    hub.forbidden.clear()
    hub.asked.clear()
    Hub(hub.url).fetch(plan, lambda _: None)
    start = hub.fetched()[0].removeprefix(f"{name} from ")
    assert 10_000_000 <= int(start) <= 15_000_000
    assert (tmp_path / name).read_bytes() == hub.repositories[INFINITY][name]


@pytest.mark.parametrize("name", ["infinity_vae_d32reg.pth", "config.json"])
def test_a_file_with_another_checksum_is_removed_and_named(hub: LocalHub, tmp_path: Path, name: str) -> None:
    right = {**hub.repositories[INFINITY], **hub.repositories[FLAN]}[name]
    hub.served[name] = b"x" * len(right)
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    with pytest.raises(
        ValueError, match=rf"{name} came without the checksum that .* gives, so it was removed"
    ):
        Hub(hub.url).fetch(plan, lambda _: None)
    assert not list(tmp_path.glob(f"**/*{name}*"))
    del hub.served[name]
    Hub(hub.url).fetch(plan, lambda _: None)


def test_what_the_hub_does_not_have_is_told_in_a_sentence(hub: LocalHub, tmp_path: Path) -> None:
    def refused(sentence: str, model: str = "infinity-2b") -> None:
        with pytest.raises(ValueError, match=sentence):
            Hub(hub.url).plan(model, tmp_path, AT_MAIN)

    refused("nano comes inside the package", "nano")
    refused(r"no model 'infinity' to fetch: give one of infinity-2b, infinity-8b", "infinity")
    refused(rf"{INFINITY} at main has no weights in infinity_8b_512x512_weights", "infinity-8b-512")
    del hub.repositories[INFINITY]["infinity_2b_reg.pth"]
    refused(rf"{INFINITY} at main has no infinity_2b_reg\.pth")
    del hub.repositories[INFINITY]
    refused(f"The hub has no {INFINITY}, or this login may not read it")


def test_a_name_that_leads_out_of_the_folder_is_not_fetched(hub: LocalHub, tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"encoder.x": "../../outside.safetensors"}}).encode()
    hub.repositories[FLAN] |= {"model.safetensors.index.json": index, "../../outside.safetensors": b"x"}
    with pytest.raises(ValueError, match=rf"{FLAN} names a file outside its folder, '\.\./\.\./outside"):
        Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)


def test_no_room_is_told_before_anything_is_fetched(hub: LocalHub, tmp_path: Path) -> None:
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    large = replace(plan.downloads[0], num_bytes=2 * shutil.disk_usage(tmp_path).free)
    with pytest.raises(ValueError, match=r"free, and .* are to be fetched\. Make room"):
        Hub(hub.url).fetch(replace(plan, downloads=(large,)), lambda _: None)
    assert hub.fetched() == ["model.safetensors.index.json"]


def test_being_offline_is_told_in_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free_port = listener.getsockname()[1]
    with pytest.raises(
        ValueError, match=rf"{INFINITY} could not be read from the hub: .*refused.* goes on from"
    ):
        Hub(f"http://127.0.0.1:{free_port}").plan("infinity-2b", tmp_path)


def test_the_command_plans_and_fetches_through_the_librarys_endpoint(hub: LocalHub, tmp_path: Path) -> None:
    settings = {
        "HF_ENDPOINT": hub.url,
        "ATELIER_MODELS_DIR": str(tmp_path),
        "ATELIER_FLAN_T5_REVISION": "main",
    }
    at_main = ("--revision", f"{INFINITY}=main")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("fetch", *arguments),
            cwd=ROOT,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
        )

    planned = run("infinity-2b", *at_main, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "infinity_2b_reg.pth" in planned.stdout
    assert list(tmp_path.iterdir()) == []
    fetched = run("infinity-2b", *at_main)
    assert fetched.returncode == 0, fetched.stderr
    assert "checksum right" in fetched.stdout
    hub.repositories[FLAN]["config.json"] = b"{ }"
    refused = run("infinity-2b", *at_main)
    assert refused.returncode == 1
    assert "`atelier fetch infinity-2b --accept-changes` takes it" in refused.stderr
    assert run("infinity-2b", *at_main, "--accept-changes").returncode == 0
    assert (tmp_path / "flan-t5-xl" / "config.json").read_bytes() == b"{ }"
    wrong = run("infinity-2b", "--revision", INFINITY)
    assert wrong.returncode == 1
    assert "--revision must be REPOSITORY=REVISION" in wrong.stderr
    assert (tmp_path / "flan-t5-xl" / ENCODER).is_file()


def test_what_was_fetched_is_written_down_with_commits_and_checksums(hub: LocalHub, tmp_path: Path) -> None:
    Hub(hub.url).fetch(Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN), lambda _: None)
    record = read_record(tmp_path)
    assert {path: entry.sha256 for path, entry in record.items()} == {
        path: sha256((tmp_path / path).read_bytes()).hexdigest()
        for path in ("infinity_2b_reg.pth", "infinity_vae_d32reg.pth", "flan-t5-xl/config.json",
                     "flan-t5-xl/tokenizer.json", "flan-t5-xl/model.safetensors.index.json",
                     f"flan-t5-xl/{ENCODER}")
    }  # fmt: skip
    large = record["infinity_2b_reg.pth"]
    assert (large.repository, large.commit, large.num_bytes) == (INFINITY, hub.commit(INFINITY), 25_000_000)
    assert record["flan-t5-xl/config.json"].checksum == blob(b"{}")


@pytest.mark.parametrize(
    ("repository", "name"), [(INFINITY, "infinity_vae_d32reg.pth"), (FLAN, "config.json")]
)
def test_a_file_that_the_hub_has_changed_since_is_refused_until_it_is_accepted(
    hub: LocalHub, tmp_path: Path, repository: str, name: str
) -> None:
    Hub(hub.url).fetch(Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN), lambda _: None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    hub.repositories[repository][name] += b"more"
    hub.commits[repository] = "c0ffee" + 34 * "0"
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    assert "changed " in plan.table()
    sentence = rf"{repository} has changed {name}: at commit c0ffee0+ .* --accept-changes` takes it"
    with pytest.raises(ValueError, match=sentence):
        Hub(hub.url).fetch(plan, lambda _: None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    Hub(hub.url).fetch(plan, lambda _: None, accepts_changes=True)
    again = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    assert again.changed == []
    Hub(hub.url).fetch(again, lambda _: None)


def test_an_interrupted_fetch_is_resumed_with_the_files_it_began_with(hub: LocalHub, tmp_path: Path) -> None:
    name = "infinity_2b_reg.pth"
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)
    hub.cut_after[name] = 15_000_000
    hub.forbidden.add(name)
    with pytest.raises(ValueError, match="could not be read"):
        Hub(hub.url).fetch(plan, lambda _: None)
    hub.repositories[INFINITY]["infinity_vae_d32reg.pth"] = content(2000, b"w")
    with pytest.raises(ValueError, match=rf"{INFINITY} has changed infinity_vae_d32reg\.pth"):
        Hub(hub.url).fetch(Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN), lambda _: None)


def test_a_commit_that_moved_without_the_files_is_no_change(hub: LocalHub, tmp_path: Path) -> None:
    Hub(hub.url).fetch(Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN), lambda _: None)
    hub.commits[INFINITY] = "c0ffee" + 34 * "0"
    hub.asked.clear()
    Hub(hub.url).fetch(Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN), lambda _: None)
    assert [name for name in hub.fetched() if "index.json" not in name] == []
    assert read_record(tmp_path)["infinity_2b_reg.pth"].commit == hub.commit(INFINITY)


def test_a_record_that_cannot_be_read_is_named(hub: LocalHub, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"x": {"checksum": "y"}}'):
        (tmp_path / FILE_NAME).write_text(text)
        with pytest.raises(
            ValueError, match=rf"{FILE_NAME}, which .* cannot be read .* Restore it, or remove it"
        ):
            Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN)


def test_a_pinned_commit_must_have_the_released_file(hub: LocalHub, tmp_path: Path) -> None:
    """By its checksum where a preset knows it, else by its size."""
    two, eight = (RELEASED[name].sources[0] for name in ("infinity-2b", "infinity-8b"))
    hub.commits[INFINITY] = two.revision
    checksum = two.known[0].sha256
    with pytest.raises(
        ValueError, match=rf"lists infinity_2b_reg\.pth with 25\.00 MB .* has 8\.82 GB and {checksum}"
    ):
        Hub(hub.url).plan("infinity-2b", tmp_path, {FLAN: "main"})
    hub.commits[INFINITY] = eight.revision + 33 * "0"
    with pytest.raises(ValueError, match=r"infinity_vae_d56_f8_14_patchify\.pth .* has 1\.22 GB and c4c69"):
        Hub(hub.url).plan("infinity-8b", tmp_path, {FLAN: "main"})
    hub.commits[FLAN] = RELEASED["infinity-2b"].sources[1].revision
    with pytest.raises(ValueError, match=rf"{FLAN} lists {ENCODER} .* the released file has 9\.45 GB\. "):
        Hub(hub.url).plan("infinity-2b", tmp_path, {INFINITY: "main"})


def test_the_first_digits_of_a_commit_are_looked_up(hub: LocalHub, tmp_path: Path) -> None:
    hub.commits[INFINITY] = "d00df00d" + 32 * "1"
    plan = Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN | {INFINITY: "d00df00d"})
    assert {download.commit for download in plan.downloads if download.repository == INFINITY} == {
        hub.commit(INFINITY)
    }
    for digits, found in (("c0ffee00", "no commit"), ("abababa", "")):
        hub.commits[INFINITY] = "ab" * 19 + "00"
        sentence = (
            f"{INFINITY} has {found or 'several commits'} beginning with {digits}: name one with --revision"
        )
        with pytest.raises(ValueError, match=sentence):
            Hub(hub.url).plan("infinity-2b", tmp_path, AT_MAIN | {INFINITY: digits})


@pytest.mark.parametrize("name", PRESETS)
def test_every_source_is_pinned_to_a_commit_or_its_first_digits(name: str) -> None:
    _, preset = PRESETS[name]
    for source in preset.sources:
        assert re.fullmatch(r"[0-9a-f]{7}|[0-9a-f]{40}", source.revision)
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in source.known if file.sha256)


def test_sizes_are_written_as_the_hub_counts() -> None:
    assert [in_bytes(number) for number in (999, 1000, 2_420_000, 9_449_000_000)] == [
        "999 bytes", "1.00 kB", "2.42 MB", "9.45 GB",
    ]  # fmt: skip
