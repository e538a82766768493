"""Half precision: where it is allowed, how far it agrees with fp32, and that it keeps what fp32 promises."""

from __future__ import annotations

import pathlib
from functools import cache

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from service.cli.main import cli
from service.evaluation.recording import Recording, layer_outputs
from service.evaluation.verify_half import MIN_FORCED, HalfReport, verify_half
from service.model.checkpoints import registry as presets
from service.model.checkpoints.options import LoadOptions
from service.model.device.precision import Precision, TextEncoderDevice, choose, forbid_tf32
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Path, Text
from service.model.infinity.backbone import Infinity
from service.settings import read_settings
from tests.support.tiny import tiny_infinity

pytestmark = pytest.mark.slow

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
CPU, GPU = torch.device("cpu"), torch.device("cuda")
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16

multiplies_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this CPU does not multiply in bf16: convolutions of a real size take minutes",
)


def in_bf16() -> Infinity:
    full = tiny_infinity()
    full.transformer.hold_blocks_in(BF16)
    full.tokenizer.hold_decoder_in(BF16)
    return Infinity(full.config, full.transformer, full.tokenizer, full.text_encoder, fingerprint="")


@cache
def golden(name: str) -> HalfReport:
    return verify_half(GOLDEN / name)


@pytest.mark.parametrize(
    ("device", "asked", "precision"),
    [
        (CPU, {}, Precision(FP32, FP32)),
        (GPU, {}, Precision(BF16, FP16)),
        (CPU, {"precision": "bf16"}, Precision(BF16, BF16)),
        (GPU, {"precision": "fp32"}, Precision(FP32, FP32)),
        (GPU, {"text_precision": "bf16"}, Precision(BF16, BF16)),
        (GPU, {"text_device": "cpu"}, Precision(BF16, FP32, TextEncoderDevice.CPU)),
        (GPU, {"text_device": "fetched"}, Precision(BF16, FP16, TextEncoderDevice.FETCHED)),
    ],
)
def test_each_device_has_its_own_default_and_what_is_asked_for_wins(
    device: torch.device, asked: dict[str, str], precision: Precision
) -> None:
    assert choose(device, **asked) == precision


@pytest.mark.parametrize(
    ("device", "asked", "sentence"),
    [
        (CPU, {"text_precision": "fp16"}, "ATELIER_TEXT_PRECISION is fp16, .*: choose bf16"),
        (GPU, {"text_precision": "fp16", "text_device": "cpu"}, "a CPU computes slowly"),
        (CPU, {"text_device": "fetched"}, "fetched, .* the model is on the CPU: leave it at beside"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(
    device: torch.device, asked: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        choose(device, **asked)


def test_a_precision_that_does_not_exist_is_refused_by_the_settings() -> None:
    with pytest.raises(
        ValueError, match=r"^ATELIER_PRECISION must be 'auto', 'fp32', 'bf16' or 'fp8', not 'fp4'$"
    ):
        read_settings(precision="fp4")


@pytest.mark.parametrize(
    "name", ["infinity_transformer_tiny", "infinity_8b_tiny", "style_personalization_tiny"]
)
def test_bf16_gives_nearly_all_bits_of_fp32_from_the_same_features(name: str) -> None:
    report = golden(name)
    assert report.passed
    for run in report.runs:
        assert run.forced >= MIN_FORCED - 0.005  # of far fewer bits
        assert run.free >= 0.8  # not bounded by any one step's rounding; 0.866 is the least seen
        assert run.steps[0].forced == run.steps[0].free == 1.0


@torch.inference_mode()
def test_what_passes_between_layers_is_fp32_and_what_attends_is_bf16() -> None:
    infinity = in_bf16()
    recording = Recording.of(infinity, {"a star": infinity.encode_text("a star").conditioning})
    with layer_outputs(recording) as seen:
        Generator(recording).generate([ImageSpec("a star", 1, next(iter(infinity.schedules)))])
    assert {name: {tensor.dtype for tensor in tensors} for name, tensors in seen.items()} == {
        "pool": {FP32}, "modulation": {FP32}, "text_in": {BF16}, "block_in": {FP32}, "block_out": {FP32}
    }  # fmt: skip
    assert {tensor.dtype for tensor in (*recording.logits, *recording.features)} == {FP32}
    cache = infinity.begin(
        [Path(Text(torch.zeros(2, 128), 2, 1024), None, (3.0,) * 6)],
        next(iter(infinity.schedules.values())),
        6,
    )
    assert {tensor.dtype for tensor in (*cache.key_values.keys, *cache.key_values.values)} == {BF16}


@multiplies_bf16
def test_bf16_decodes_nearly_the_image_of_fp32_and_the_command_prints_the_agreement() -> None:
    done = CliRunner().invoke(cli, ["verify", "--precision", "bf16", str(GOLDEN / "infinity_vae_tiny")])
    assert done.exit_code == 0, done.output
    for name in ("p16", "p8"):
        assert f"{name} decoded: 4" in done.output


def test_the_agreement_is_printed_step_by_step() -> None:
    header, *steps, total = golden("infinity_8b_tiny").table().splitlines()
    assert "agree, forced" in header
    assert [line.split()[0] for line in steps] == list("1234567")
    assert total.split()[:2] == ["all", "260232"]


def test_the_command_refuses_another_precision_and_another_folder(tmp_path: pathlib.Path) -> None:
    for arguments, sentence in (
        (["--precision", "fp8", str(tmp_path)], "must be fp32 or bf16, not 'fp8'"),
        (["--precision", "bf16", str(tmp_path)], "not laid out like a golden set"),
    ):
        done = CliRunner().invoke(cli, ["verify", *arguments])
        assert done.exit_code == 1
        assert sentence in done.output


def test_a_model_is_loaded_as_it_was_chosen() -> None:
    generator = presets.load("nano", "cpu", choices=LoadOptions(precision="bf16", decoding="strips"))
    assert generator.precision == "bf16"
    (drawing,) = generator.generate([ImageSpec("a red star", 1, generator.default_size)])
    assert np.ptp(drawing.image) > 100
    assert presets.load("nano", "cpu").fingerprint == generator.fingerprint


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        (LoadOptions(text_precision="fp16"), "ATELIER_TEXT_PRECISION is fp16"),
        (LoadOptions(text_device="fetched"), "ATELIER_TEXT_DEVICE is fetched"),
        (LoadOptions(sizes="32x32"), "ATELIER_SIZES names 32x32"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused_before_any_weight_is_read(
    choices: LoadOptions, sentence: str
) -> None:
    read: list[str] = []
    with pytest.raises(ValueError, match=sentence):
        presets.load("nano", "cpu", choices=choices, on_progress=lambda name, *_: read.append(name))
    assert read == []


def test_settings_and_flags_reach_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_TEXT_DEVICE", "cpu")
    monkeypatch.setenv("ATELIER_SIZES", "1024x1024")
    settings = read_settings(precision="bf16", text_precision="bf16", decoding="strips", sizes="all")
    assert settings.choices == LoadOptions("bf16", "bf16", "cpu", "all", "strips")
    assert read_settings().choices == LoadOptions(text_device="cpu", sizes="1024x1024")


def test_fp32_convolutions_are_not_rounded_to_tf32() -> None:
    with torch.backends.cudnn.flags(allow_tf32=True):
        forbid_tf32()
        assert not torch.backends.cudnn.allow_tf32
