"""`atelier convert`: another form of the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from service.cli.main import cli
from service.model.checkpoints import registry as presets
from service.model.checkpoints.convert import convert, read_precision, write_safetensors
from service.model.checkpoints.loader import Stored, open_weights
from service.model.infinity.backbone import Infinity
from service.model.infinity.model_folder import InfinityCheckpoint
from service.model.schedule import Size
from tests.support.released_files import FLAN_TINY, shrunk, write_released

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["infinity-2b", "infinity-8b"])
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> InfinityCheckpoint:
    folder = tmp_path_factory.mktemp("released")
    write_released(folder, shrunk(request.param), FLAN_TINY)
    return InfinityCheckpoint(shrunk(request.param), folder)


def weights(infinity: Infinity) -> dict[str, torch.Tensor]:
    assert infinity.text_encoder is not None
    parts = infinity.transformer, infinity.tokenizer, infinity.text_encoder._encoder
    return {
        f"{index}.{name}": parameter
        for index, part in enumerate(parts)
        for name, parameter in part.named_parameters()
    }


def test_a_conversion_as_stored_is_the_same_model(checkpoint: InfinityCheckpoint, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    convert(checkpoint, tmp_path / "out", None, lambda *progress: seen.append(progress))
    before = checkpoint.load(CPU)
    after = presets.load(str(tmp_path / "out")).backbone
    assert isinstance(after, Infinity)
    ours, theirs = weights(after), weights(before)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert after.fingerprint == before.fingerprint
    assert after.schedules == before.schedules
    assert sorted(file.name for file in tmp_path.glob("out/**/*")) == sorted(
        ["config.json", "transformer.safetensors", "tokenizer.safetensors", "text_encoder",
         "config.json", "tokenizer.json", "model.safetensors"]
    )  # fmt: skip
    last = {file: (done, total) for file, done, total in seen}
    assert last.keys() == {"transformer.safetensors", "tokenizer.safetensors", "model.safetensors"}
    assert all(done == total > 0 for done, total in last.values())


def test_a_conversion_to_half_precision_leaves_the_image_tokenizer_as_it_is(
    checkpoint: InfinityCheckpoint, tmp_path: Path
) -> None:
    convert(checkpoint, tmp_path / "out", torch.bfloat16)
    stored = {file.name: load_file(file) for file in tmp_path.glob("out/**/*.safetensors")}
    dtypes = {name: {tensor.dtype for tensor in tensors.values()} for name, tensors in stored.items()}
    assert dtypes == {
        "transformer.safetensors": {torch.bfloat16, torch.float32},
        "model.safetensors": {torch.bfloat16},
        "tokenizer.safetensors": {torch.float32},
    }
    original = open_weights(checkpoint.folder / checkpoint.config.files.transformer)
    written = stored["transformer.safetensors"]
    for name, tensor in original.tensors(["head.weight", "word_embed.weight"]):
        assert torch.equal(written[name], tensor if name == "head.weight" else tensor.bfloat16())
    assert presets.load(str(tmp_path / "out")).fingerprint == checkpoint.load(CPU).fingerprint


def test_what_is_there_already_is_not_written_over(checkpoint: InfinityCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is there already: remove it, or choose another folder"):
        convert(checkpoint, tmp_path)


def test_a_conversion_that_was_interrupted_leaves_no_model_and_can_be_repeated(
    checkpoint: InfinityCheckpoint, tmp_path: Path
) -> None:
    def interrupted(name: str, num_done: int, num_bytes: int) -> None:
        if name == "tokenizer.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, tmp_path / "out", on_progress=interrupted)
    assert not (tmp_path / "out").exists()
    convert(checkpoint, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_two_conversions_do_not_write_the_same_folder(checkpoint: InfinityCheckpoint, tmp_path: Path) -> None:
    def again(name: str, num_done: int, num_bytes: int) -> None:
        with pytest.raises(ValueError, match="Another `atelier convert` is writing"):
            convert(checkpoint, tmp_path / "out")

    convert(checkpoint, tmp_path / "out", on_progress=again)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(
    checkpoint: InfinityCheckpoint, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out could not be written: "):
        convert(checkpoint, tmp_path / "file" / "out")


def test_a_converted_preset_comes_before_its_released_files(tmp_path: Path) -> None:
    config = shrunk("infinity-2b")
    write_released(tmp_path, config, FLAN_TINY)
    assert presets.find("infinity-2b", tmp_path).folder == tmp_path
    convert(InfinityCheckpoint(config, tmp_path), tmp_path / "infinity-2b", torch.bfloat16)
    assert presets.load("infinity-2b", models_dir=tmp_path).num_steps(Size(256, 256)) == 7


def test_the_command_rewrites_a_folder_of_ones_own(checkpoint: InfinityCheckpoint, tmp_path: Path) -> None:
    """One whose config.json names released files."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in checkpoint.folder.iterdir():
        (mine / file.name).symlink_to(file)
    (mine / "config.json").write_text(checkpoint.config.to_json())
    run, out = CliRunner().invoke, tmp_path / "out"
    assert run(cli, ["convert", str(mine)]).stderr.endswith("name the folder to write with --out\n")
    written = run(cli, ["convert", str(mine), "--out", str(out), "--dtype", "stored"])
    assert written.exit_code == 0, written.stderr
    assert written.stdout == f"{out} is written: use it as --model {out}\n"
    assert presets.load(str(out)).fingerprint == presets.load(str(mine)).fingerprint
    again = run(cli, ["convert", str(mine), "--out", str(out)])
    assert (again.exit_code, again.stderr) == (
        1,
        f"{out} is there already: remove it, or choose another folder\n",
    )


def test_files_that_do_not_fit_are_not_converted(checkpoint: InfinityCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"infinity_125M_256x256\.pth is missing"):
        convert(InfinityCheckpoint(shrunk("infinity-125m"), checkpoint.folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_precisions() -> None:
    assert read_precision("bf16") is torch.bfloat16
    assert read_precision("stored") is None
    with pytest.raises(ValueError, match=r"--dtype must be one of f32, f16, bf16 or stored, not 'int8'"):
        read_precision("int8")


def test_a_file_written_tensor_by_tensor_is_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(1.5),
        "turned": torch.arange(6.0).view(2, 3).T,
        "none": torch.zeros(0, 3),
        "half": torch.ones(3, dtype=torch.float16),
        "double": torch.ones(3, dtype=torch.float64),
        "counts": torch.arange(3),
        "small": torch.arange(3, dtype=torch.int32),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "mask": torch.tensor([True, False]),
    }
    header = {name: Stored(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    write_safetensors(tmp_path / "a.safetensors", header, tensors.items())
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert np.array_equal(read[name].numpy(), tensor.numpy())
    header["scalar"] = Stored((), torch.complex64)
    with pytest.raises(ValueError, match=r"scalar is stored as torch\.complex64"):
        write_safetensors(tmp_path / "b.safetensors", header, tensors.items())
