"""Weight files of every kind: read alike, and told in a sentence when they are not what they should be."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from service.model.checkpoints.loader import open_weights, read_tensors
from tests.support.released_files import write_shards

TENSORS = {name: torch.arange(100.0) + index for index, name in enumerate("abcdef")}


def equal(read: dict[str, Tensor]) -> bool:
    return read.keys() == TENSORS.keys() and all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def write(file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file(TENSORS, file)
    else:
        torch.save(TENSORS, file, _use_new_zipfile_serialization=file.stem != "old")
    return file


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.bin", "old.pth"])
def test_every_kind_of_file_is_read_and_one_that_was_cut_short_is_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    assert equal(read_tensors(file))
    file.write_bytes(file.read_bytes()[:-700])
    size = f"{file.stat().st_size:,} bytes"
    with pytest.raises(
        ValueError, match=rf"{name} cannot be read as a weight file: {size}, cut short or damaged"
    ):
        read_tensors(file)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_folder_of_shards_is_read_by_its_index(tmp_path: Path, suffix: str) -> None:
    files = write_shards(tmp_path, TENSORS, num_shards=3, suffix=suffix)
    assert equal(read_tensors(tmp_path))
    files[1].unlink()
    with pytest.raises(ValueError, match=rf"00002-of-00003{suffix} is missing; .*\.index\.json names it"):
        read_tensors(tmp_path)


def test_shards_that_hold_nothing_wanted_need_not_be_there(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, num_shards=3, left_out=(2,))
    assert list(open_weights(tmp_path, holds=lambda name: name in "abc").stored) == ["a", "b", "c", "d"]


def test_a_folder_with_a_single_file_needs_no_index(tmp_path: Path) -> None:
    write(tmp_path / "any.safetensors")
    assert equal(read_tensors(tmp_path))
    save_file({"other": torch.zeros(1)}, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match="holds no weights that can be told"):
        read_tensors(tmp_path)
    write(tmp_path / "model.safetensors")
    assert equal(read_tensors(tmp_path))


def test_safetensors_are_preferred_where_a_folder_has_both(tmp_path: Path) -> None:
    write_shards(tmp_path, TENSORS, num_shards=2)
    write_shards(tmp_path, {"other": torch.zeros(1)}, num_shards=1, suffix=".bin")
    assert equal(read_tensors(tmp_path))


@pytest.mark.parametrize(("nests", "taken"), [(("vae", "ema"), 1.0), (("ema",), 2.0)])
def test_tensors_one_level_in_are_found_under_the_names_given(
    tmp_path: Path, nests: tuple[str, ...], taken: float
) -> None:
    file = tmp_path / "vae.pth"
    torch.save({"vae": {"x": torch.tensor(1.0)}, "ema": {"x": torch.tensor(2.0)}, "steps": 7}, file)
    weights = open_weights(file, nests=nests)
    assert dict(weights.tensors(["x"]))["x"].item() == taken


def test_what_is_no_weight_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.safetensors is missing"):
        read_tensors(tmp_path / "none.safetensors")
    (tmp_path / "pointer.pth").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(ValueError, match=r"pointer\.pth is the pointer that Git LFS leaves"):
        read_tensors(tmp_path / "pointer.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds a list, not named tensors"):
        read_tensors(tmp_path / "list.pth")
    torch.save({"trainer": {"gpt_fsdp": {}}, "epoch": 3, "a": TENSORS["a"]}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match=r"run\.pth holds other things than named tensors: trainer, epoch"):
        read_tensors(tmp_path / "run.pth")
    torch.save({"a": TENSORS["a"], "args": argparse.Namespace()}, tmp_path / "objects.pth")
    with pytest.raises(ValueError, match=r"objects\.pth holds Python objects .* could run any code"):
        read_tensors(tmp_path / "objects.pth")


def test_a_folder_without_weights_and_an_index_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no weights that can be told: it needs an index"):
        read_tensors(tmp_path)
    for text in ("{}", "[]", "no", json.dumps({"weight_map": 3})):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match=r"index\.json is not an index of shards"):
            read_tensors(tmp_path)
