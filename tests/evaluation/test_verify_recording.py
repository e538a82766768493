"""A checkpoint against a recording: of this machine, of upstream's script, changed, and of another model."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from service.cli.main import cli
from service.evaluation import verify_recording as recordings
from service.evaluation.verify_recording import (
    ModelRecording,
    compare_with,
    digest,
    read_recording,
    write_recording,
)
from service.model.engine.generator import Generator
from tests.support.process import ROOT, write_tiny_model
from tests.support.tiny import tiny_infinity
from tests.support.tiny_switti import switti_generator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(tiny_infinity())


@pytest.fixture(scope="module")
def recorded(generator: Generator) -> ModelRecording:
    return recordings.record(generator, "the tests")


def flipped(bits: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    changed = bits.flatten()
    changed[: round(share * changed.size)] ^= 1
    return changed.reshape(bits.shape)


def missed(generator: Generator, recording: ModelRecording) -> set[str]:
    return {check.tensor for check in compare_with(generator, recording) if not check.passed}


def test_this_machine_agrees_with_itself_exactly_and_the_form_of_gpus_within_the_tolerances(
    generator: Generator, recorded: ModelRecording, tmp_path: Path
) -> None:
    write_recording(tmp_path / "r.safetensors", recorded)
    again = read_recording(tmp_path / "r.safetensors")
    assert (again.made_by, again.prompt, again.guidance) == (
        "the tests",
        recordings.PROMPT,
        generator.guidance,
    )
    assert [check.difference for check in compare_with(generator, again)] == [0, 0, 0]
    fused = Generator(tiny_infinity())
    recordings.use_fused_kernels(fused)
    assert missed(fused, again) == set()


def test_a_recording_with_one_number_changed_is_refused(recorded: ModelRecording, tmp_path: Path) -> None:
    for name, array in recorded.arrays().items():
        file = tmp_path / f"{name}.safetensors"
        write_recording(file, recorded)
        arrays = load_file(file)
        numbers = array.copy().reshape(-1)
        numbers[7] = numbers[7] == 0
        about = {"made_by": "x", "prompt": "x", "guidance": "4", "sha256": digest(recorded.arrays())}
        save_file(arrays | {name: numbers.reshape(array.shape)}, file, about)
        with pytest.raises(ValueError, match="was changed after it was recorded"):
            read_recording(file)


@pytest.mark.parametrize(("share", "passes"), [(0.003, True), (0.02, False)])
def test_differing_bits_are_counted_against_the_tolerance(
    generator: Generator, recorded: ModelRecording, share: float, passes: bool
) -> None:
    style = replace(recorded, style_bits=flipped(recorded.style_bits, share))
    assert missed(generator, style) == (set() if passes else {"style_bits"})
    # The last step's bits, which no other step starts from.
    last = flipped(recorded.bits[::-1], share)[::-1].copy()
    assert missed(generator, replace(recorded, bits=last)) == (set() if passes else {"bits"})


def test_other_weights_another_text_and_another_number_of_tokens_are_misses(
    recorded: ModelRecording,
) -> None:
    other = Generator(tiny_infinity(seed=1))
    assert missed(other, recorded) >= {"bits", "style_bits"}
    generator = Generator(tiny_infinity())
    assert "text" in missed(generator, replace(recorded, text=recorded.text * 1.1))
    assert "text" in missed(generator, replace(recorded, text=recorded.text[:-1]))


def test_what_is_of_another_model_is_refused_with_a_sentence(
    generator: Generator, recorded: ModelRecording, tmp_path: Path
) -> None:
    small = replace(recorded, style_image=recorded.style_image[:16, :16])
    with pytest.raises(ValueError, match="The recording is of 16x16, which tiny does not draw"):
        compare_with(generator, small)
    narrow = replace(recorded, bits=recorded.bits[:, :-1])
    with pytest.raises(ValueError, match="The recording's bits are"):
        compare_with(generator, narrow)
    with pytest.raises(ValueError, match="is no Infinity"):
        compare_with(switti_generator(), recorded)
    for content in (b"", b"x" * 100):
        (tmp_path / "none").write_bytes(content)
        with pytest.raises(ValueError, match=r"none is no recording of `atelier verify --record`"):
            read_recording(tmp_path / "none")


def test_what_upstreams_script_saves_is_read(recorded: ModelRecording, tmp_path: Path) -> None:
    """Recording needs upstream's code and weights; writing does not."""
    script = runpy.run_path(str(ROOT / "docs" / "record_infinity.py"))
    about = {"made_by": "upstream", "prompt": "x", "guidance": "4.0"}
    script["save"](tmp_path / "r", recorded.arrays(), **about)
    assert np.array_equal(read_recording(tmp_path / "r").bits, recorded.bits)


def test_the_command_records_and_compares(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    file, model = str(tmp_path / "r.safetensors"), ["--model", str(tmp_path / "tiny")]
    written = CliRunner().invoke(cli, ["verify", *model, "--record", file])
    assert written.exit_code == 0, written.output
    good = CliRunner().invoke(cli, ["verify", *model, "--against", file, "--fused", "--device", "cpu"])
    assert good.exit_code == 0, good.output
    assert "tiny agrees with the recording" in good.stdout
    recording = read_recording(Path(file))
    write_recording(Path(file), replace(recording, bits=1 - recording.bits))
    bad = CliRunner().invoke(cli, ["verify", *model, "--against", file])
    assert bad.exit_code == 1
    assert "MISS" in bad.stdout
    assert "tiny differs from the recording" in bad.stderr
    for wrong in (["--against", file], [*model], [*model, "--record", file, "--against", file], []):
        refused = CliRunner().invoke(cli, ["verify", *wrong])
        assert refused.exit_code == 1
        assert "--model" in refused.stderr
