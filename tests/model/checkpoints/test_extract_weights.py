"""Pickled checkpoints: what they hold besides tensors is left out, and none of it is run."""

from __future__ import annotations

import argparse
import builtins
import collections
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from service.cli.main import cli
from service.model.checkpoints.extract_weights import extract_weights
from service.model.checkpoints.loader import read_tensors

WEIGHTS = {"w": torch.arange(6.0).view(2, 3), "half": torch.ones(4).bfloat16(), "count": torch.tensor(7)}


class Calls:
    """An object that, unpickled as usual, calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def write(file: Path, held: object, *, is_zip: bool = True) -> Path:
    torch.save(held, file, _use_new_zipfile_serialization=is_zip)
    return file


def is_same(read: dict[str, Tensor]) -> bool:
    return read.keys() == WEIGHTS.keys() and all(
        torch.equal(read[name], WEIGHTS[name]) and read[name].dtype == WEIGHTS[name].dtype for name in WEIGHTS
    )


@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_beside_python_objects_are_written_alone_and_load(tmp_path: Path, is_zip: bool) -> None:
    held = WEIGHTS | {"args": argparse.Namespace(depth=32), "path": Path("/x"), "epoch": 3}
    file = write(tmp_path / "run.pth", held, is_zip=is_zip)
    with pytest.raises(
        ValueError, match=r"could run any code\. `atelier extract-weights .*run\.safetensors`"
    ):
        read_tensors(file)
    assert extract_weights(file, tmp_path / "run.safetensors") == ("", 3)
    assert is_same(read_tensors(tmp_path / "run.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.pth", "run.safetensors"]


def test_the_command_does_what_the_loaders_sentence_says(tmp_path: Path) -> None:
    file = write(tmp_path / "run.pth", {"trainer": {"gpt_fsdp": WEIGHTS}, "args": SimpleNamespace()})
    with pytest.raises(ValueError, match="atelier extract-weights") as refused:
        read_tensors(file)
    command = str(refused.value).split("`")[1].removeprefix("atelier ").split()
    ran = CliRunner().invoke(cli, command)
    assert ran.exit_code == 0, ran.output
    assert "3 tensors of trainer.gpt_fsdp" in ran.stdout
    written = Path(command[-1])
    written.replace(file)  # "put the new file in its place": told by its content
    assert is_same(read_tensors(file))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("function", [builtins.exec, builtins.eval, os.mkdir])
def test_nothing_that_the_file_names_is_called(
    tmp_path: Path, is_zip: bool, function: Callable[..., object]
) -> None:
    """The two built-ins become objects that do nothing; a file that names `os` is refused altogether."""
    trace = tmp_path / "trace"
    argument = str(trace) if function is os.mkdir else f"__import__('os').mkdir({str(trace)!r})"
    held = {"weights": WEIGHTS, "other": Calls(function, argument)}
    file = write(tmp_path / "evil.pth", held, is_zip=is_zip)
    if function is os.mkdir:
        with pytest.raises(ValueError, match=r"cannot be read without running it: .*mkdir .* is blocked"):
            extract_weights(file, tmp_path / "out.safetensors")
    else:
        assert extract_weights(file, tmp_path / "out.safetensors") == ("weights", 3)
    assert not trace.exists()
    torch.load(file, weights_only=False)  # so it would have been
    assert trace.exists()


def test_a_file_with_several_entries_asks_which(tmp_path: Path) -> None:
    file = write(tmp_path / "vae.pth", {"vae": WEIGHTS, "ema": {"w": torch.zeros(1)}, "a": SimpleNamespace()})
    out = tmp_path / "vae.safetensors"
    with pytest.raises(ValueError, match=r"several entries: choose with --entry\n  vae: 3 tensors\n  ema: 1"):
        extract_weights(file, out)
    with pytest.raises(ValueError, match="holds no tensors in 'disc'; it does in\n  vae: 3"):
        extract_weights(file, out, "disc")
    assert extract_weights(file, out, "vae") == ("vae", 3)
    assert is_same(read_tensors(out))
    with pytest.raises(ValueError, match=r"vae\.safetensors is there already"):
        extract_weights(file, out, "vae")


def test_what_cannot_be_read_that_way_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match=r"none\.pth is missing"):
        extract_weights(tmp_path / "none.pth", out)
    with pytest.raises(ValueError, match="holds no named tensors"):
        extract_weights(write(tmp_path / "list.pth", [1, 2]), out)
    counted = write(tmp_path / "d.pth", {"w": WEIGHTS, "d": collections.defaultdict(int, a=1)})
    with pytest.raises(ValueError, match="cannot be read without running it: Can only SETITEM"):
        extract_weights(counted, out)
    cut = write(tmp_path / "cut.pth", WEIGHTS)
    cut.write_bytes(cut.read_bytes()[:-700])
    with pytest.raises(ValueError, match="cannot be read without running it"):
        extract_weights(cut, out)
    assert not list(tmp_path.glob("*out.safetensors*"))
