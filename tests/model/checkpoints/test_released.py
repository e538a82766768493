"""The released checkpoints: what the presets say of them, and their files, small, right and wrong."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel

from service.model.checkpoints import registry as presets
from service.model.checkpoints.loader import open_weights
from service.model.checkpoints.memory_budget import in_bytes
from service.model.device.precision import FULL, Precision
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.config import FilesConfig, InfinityConfig
from service.model.infinity.model_folder import InfinityCheckpoint
from service.model.infinity.presets import NUM_TEXT_PARAMETERS, RELEASED
from service.model.infinity.t5 import TextEncoder
from service.model.infinity.transformer import Block
from service.model.infinity.weight_names import is_text_encoder
from service.model.schedule import Size
from tests.support.process import ROOT
from tests.support.released_files import (
    FLAN_TINY,
    FLAN_XL,
    num_parameters,
    released_tokenizer,
    shrunk,
    weight_bytes,
    write_released,
    write_shards,
)

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
ON_GPU = Precision(torch.bfloat16, torch.float16)  # what `auto` is there
NAMES = list(RELEASED)
SPEC = ImageSpec("a red star", 1, Size(256, 256))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with every preset's files, shrunk."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        write_released(folder, shrunk(name), FLAN_TINY)
    return folder


@pytest.fixture
def models_dir(written: Path, tmp_path: Path) -> Path:
    """The same files, as links that a test may replace."""
    for file in written.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def replace_file(path: Path) -> Path:
    path.unlink()
    return path


@pytest.mark.parametrize(
    ("name", "billions"),
    [("infinity-2b", (2.205, 0.110)), ("infinity-8b", (8.376, 0.082)), ("infinity-8b-512", (8.376, 0.082)),
     ("infinity-125m", (0.125, 0.110))],
)  # fmt: skip
def test_a_preset_has_the_size_it_is_named_for(name: str, billions: tuple[float, float]) -> None:
    counts = num_parameters(name)
    assert (round(counts["transformer"] / 1e9, 3), round(counts["tokenizer"] / 1e9, 3)) == billions
    assert weight_bytes(name, FULL) == 4 * (sum(counts.values()) + NUM_TEXT_PARAMETERS)


@pytest.mark.parametrize("name", NAMES)
def test_the_models_page_says_what_a_preset_needs(name: str) -> None:
    config = RELEASED[name].config
    size, sampling = next(iter(config.schedules())), config.sampling
    (row,) = (
        line
        for line in (ROOT / "docs" / "models.md").read_text().splitlines()
        if line.startswith(f"| `{name}` | {size.width} x") and line.count("|") == 6
    )
    assert row.split(" | ")[1:] == [
        f"{size.width} x {size.height}",
        in_bytes(weight_bytes(name, FULL)),
        in_bytes(weight_bytes(name, ON_GPU)),
        f"{sampling.guidance:g}, {sampling.temperature:g} |",
    ]


def test_the_text_encoder_is_counted_right() -> None:
    with torch.device("meta"):
        encoder = T5EncoderModel(T5Config(**FLAN_XL))
    counted = sum(math.prod(parameter.shape) for parameter in encoder.parameters())
    assert counted == NUM_TEXT_PARAMETERS


@pytest.mark.parametrize(
    ("name", "size", "num_steps", "guidance", "temperature"),
    [("infinity-2b", "1024x1024", 13, 4.0, 0.5), ("infinity-8b", "1024x1024", 13, 3.0, 1.0),
     ("infinity-8b-512", "512x512", 10, 3.0, 1.0), ("infinity-125m", "256x256", 7, 4.0, 0.5)],
)  # fmt: skip
def test_a_preset_has_its_sizes_and_its_defaults(
    name: str, size: str, num_steps: int, guidance: float, temperature: float
) -> None:
    config = RELEASED[name].config
    schedules = config.schedules()
    assert len(schedules) == 15
    assert str(next(iter(schedules))) == size
    assert {len(schedule.scales) for schedule in schedules.values()} == {num_steps}
    sampling = config.sampling
    assert (sampling.guidance, sampling.temperature, sampling.top_k, sampling.top_p) == (
        guidance, temperature, 900, 0.97,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_presets_configuration_as_a_config_json_is_the_same_again(name: str) -> None:
    config = RELEASED[name].config
    assert InfinityConfig.from_settings(json.loads(config.to_json())) == config
    assert "files" not in json.loads(replace(config, files=FilesConfig()).to_json())


@pytest.mark.parametrize("name", NAMES)
def test_released_files_become_a_model_that_draws(written: Path, name: str) -> None:
    seen: list[tuple[str, int, int]] = []
    config = shrunk(name)
    infinity = InfinityCheckpoint(config, written).load(
        CPU, on_progress=lambda *progress: seen.append(progress)
    )
    size = Size(256, 256)
    (drawing,) = Generator(infinity).generate([ImageSpec("a red star", 1, size)])
    assert drawing.image.shape == (256, 256, 3)
    assert np.ptp(drawing.image) > 0
    last = {file: (done, total) for file, done, total in seen}
    assert last.keys() == {config.files.transformer, config.files.tokenizer, config.files.text_encoder}
    assert all(done == total > 0 for done, total in last.values())


def test_half_precision_is_where_the_reference_has_it(written: Path) -> None:
    config, stored = shrunk("infinity-2b"), torch.load(written / "infinity_2b_reg.pth")
    half = InfinityCheckpoint(config, written).load(CPU, precision=Precision(torch.bfloat16, torch.bfloat16))
    block, full = half.transformer.blocks[0], torch.float32
    assert isinstance(block, Block)
    assert torch.equal(
        block.feedforward.up.weight, stored["block_chunks.0.module.0.ffn.fc1.weight"].bfloat16()
    )
    assert torch.equal(half.transformer.head.weight, stored["head.weight"])
    for kept in (half.transformer.modulation, half.transformer.head_modulation, half.tokenizer.encoder):
        assert {parameter.dtype for parameter in kept.parameters()} == {full}
    assert {block.modulation.dtype, block.text_norm.weight.dtype, half.transformer.start.dtype} == {full}
    assert half.tokenizer.decoder.dtype == torch.bfloat16
    assert half.precision == "bf16"
    whole = InfinityCheckpoint(config, written).load(CPU)
    assert half.fingerprint == whole.fingerprint
    assert half.resident_bytes < 0.7 * whole.resident_bytes


def test_a_preset_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"infinity_2b_reg\.pth, which is missing: `atelier fetch infinity-2b`"
    ):
        presets.load("infinity-2b", models_dir=tmp_path)
    for name in ("infinity_2b_reg.pth", "infinity_vae_d32reg.pth"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"needs .*/flan-t5-xl, which is missing"):
        presets.load("infinity-2b", models_dir=tmp_path)


def test_the_image_tokenizer_of_another_preset_is_recognised(models_dir: Path) -> None:
    """At the true size, on files without memory behind them."""
    config = RELEASED["infinity-8b"].config
    tokenizer = replace_file(models_dir / config.files.tokenizer)
    tensors = {
        name: torch.zeros(1).expand(shape)
        for name, shape in released_tokenizer(RELEASED["infinity-2b"].config).items()
    }
    torch.save({"vae": tensors}, tokenizer)
    with pytest.raises(ValueError, match="of another shape") as raised:
        InfinityCheckpoint(
            replace(shrunk("infinity-8b"), tokenizer=config.tokenizer), models_dir
        ).open_parts()
    sentence = str(raised.value)
    assert f"{tokenizer} does not fit infinity-8b's image tokenizer: " in sentence
    assert "decoder.conv_in.conv.weight is 512x32x3x3, not 512x14x3x3" in sentence
    assert sentence.endswith("It looks like the image tokenizer of infinity-2b.")


@pytest.mark.parametrize(
    ("file", "other", "model", "looks"),
    [
        ("infinity_2b_reg.pth", "infinity_vae_d32reg.pth", "transformer", ""),
        ("infinity_vae_d32reg.pth", "infinity_2b_reg.pth", "image tokenizer", ""),
        (
            "infinity_2b_reg.pth",
            "flan-t5-xl/model-00001-of-00002.safetensors",
            "transformer",
            "a T5 text encoder",
        ),
    ],
)
def test_swapped_files_are_named(models_dir: Path, file: str, other: str, model: str, looks: str) -> None:
    config = shrunk("infinity-2b")
    swapped = replace_file(models_dir / file).with_suffix(Path(other).suffix)
    swapped.symlink_to((models_dir / other).resolve())
    part = "transformer" if model == "transformer" else "tokenizer"
    config = replace(config, files=replace(config.files, **{part: swapped.name}))
    sentence = (
        rf"{swapped.name} does not fit infinity-2b's {model}: \d+ tensors missing: .* unexpected: .*{looks}"
    )
    with pytest.raises(ValueError, match=sentence):
        InfinityCheckpoint(config, models_dir).open_parts()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"head.weight": None}, r"1 tensors missing: head\.weight\."),
        ({"spare.weight": (3,)}, r"1 tensors unexpected: spare\.weight\."),
        ({"head.weight": (64, 65)}, r"1 tensors of another shape: head\.weight is 64x65, not 64x64\."),
        (
            {"block_chunks.1.module.0.sa.proj.bias": ()},
            r".* shape: block_chunks\.1\.module\.0\.sa\.proj\.bias is a scalar, not 64\.",
        ),
    ],
)
def test_a_tensor_that_is_missing_unexpected_or_of_another_shape_is_named_as_in_the_file(
    models_dir: Path, change: dict[str, tuple[int, ...] | None], sentence: str
) -> None:
    file = models_dir / "infinity_2b_reg.pth"
    tensors = torch.load(file)
    for name, shape in change.items():
        if shape is None:
            del tensors[name]
        else:
            tensors[name] = torch.zeros(shape)
    torch.save(tensors, replace_file(file))
    with pytest.raises(ValueError, match=f"{file.name} does not fit infinity-2b's transformer: {sentence}"):
        InfinityCheckpoint(shrunk("infinity-2b"), models_dir).open_parts()


@pytest.mark.parametrize("file", ["infinity_2b_reg.pth", "infinity_vae_d32reg.pth"])
def test_a_download_that_was_cut_short_is_named(models_dir: Path, file: str) -> None:
    whole = (models_dir / file).read_bytes()
    replace_file(models_dir / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{file} cannot be read as a weight file: .* cut short"):
        InfinityCheckpoint(shrunk("infinity-2b"), models_dir).open_parts()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_the_text_encoder_needs_all_its_own_tensors_and_none_of_the_decoders(
    models_dir: Path, suffix: str
) -> None:
    original = models_dir / "flan-t5-xl"
    folder = models_dir / "another"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).symlink_to(original / name)
    weights = open_weights(original, holds=is_text_encoder)
    tensors = {name: tensor.clone() for name, tensor in weights.tensors(list(weights.stored))}
    del tensors["shared.weight"]  # older files name the table only as the encoder's
    write_shards(folder, tensors, num_shards=2, suffix=suffix)
    with torch.inference_mode():
        ours, theirs = (
            TextEncoder.from_folder(source, CPU).encode("a star", 64).conditioning
            for source in (folder, original)
        )
    assert torch.equal(ours, theirs)
    del tensors["encoder.final_layer_norm.weight"]
    write_shards(folder, tensors, num_shards=2, suffix=suffix)
    sentence = r"another does not fit the text encoder: 1 tensors missing: encoder\.final_layer_norm\.weight"
    with pytest.raises(ValueError, match=sentence):
        TextEncoder.from_folder(folder, CPU)


def test_a_text_encoder_of_another_width_is_refused(models_dir: Path) -> None:
    config = shrunk("infinity-2b")
    transformer = replace(config.transformer, text_channels=256)
    wide = replace(config, transformer=transformer, files=replace(config.files, transformer="wide.pth"))
    flan = models_dir / "flan-t5-xl"
    write_released(
        models_dir, replace(wide, files=replace(wide.files, tokenizer="t.pth", text_encoder="t")), FLAN_TINY
    )
    with pytest.raises(
        ValueError, match=rf"encoder in {flan} gives 128 channels, and the transformer reads 256"
    ):
        InfinityCheckpoint(wide, models_dir).load(CPU)


READ = """
import resource, sys, threading, torch
from pathlib import Path
from torch import nn
from service.model.checkpoints.loader import Naming, load_weights, open_weights

def now():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

with torch.device("meta"):
    module = nn.ParameterDict({f"w{i}": nn.Parameter(torch.empty(2048, 2048)) for i in range(16)})
module.to(torch.bfloat16).to_empty(device="cpu")
before = now()
load_weights(module, open_weights(Path(sys.argv[1])), Naming(dict, dict), model="it")
print(now() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured from /proc")
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_reading_takes_the_memory_of_one_shard(tmp_path: Path, suffix: str) -> None:
    """256 MiB of fp32 in eight shards, into 128 MiB of bf16."""
    write_shards(
        tmp_path,
        {f"w{i}": torch.ones(2048, 2048) for i in range(16)},
        num_shards=8,
        suffix=suffix,
    )
    ran = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    model, shard, bit = 128, 32, 16
    assert int(ran.stdout) / 2**20 < model + shard + bit


# What upstream's own files and training runs may hold beside the weights.
SURPLUS = {
    "transformer": ("lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen", "Infinity_invisible_qlen"),
    "tokenizer": (
        "image_disc.main.0.weight", "video_disc.main.0.weight", "discriminator.main.1.num_batches_tracked",
        "perceptual_model.net.0.weight", "lpips.lin0.weight", "loss.logvar", "ema.decay",
        "model_ema.num_updates",
    ),
}  # fmt: skip


def with_more(models_dir: Path, part: str, more: dict[str, torch.Tensor], *, is_zip: bool = True) -> Path:
    """A file of a shrunk infinity-2b with tensors added or replaced."""
    file = models_dir / getattr(shrunk("infinity-2b").files, part)
    held = torch.load(file)
    weights = held["vae"] if part == "tokenizer" else held
    weights |= more
    torch.save(held, replace_file(file), _use_new_zipfile_serialization=is_zip)
    return file


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_with_everything_that_upstream_may_leave_in_load_and_say_what_was_skipped(
    models_dir: Path, is_zip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = shrunk("infinity-2b")
    image = Generator(InfinityCheckpoint(config, models_dir).load(CPU)).generate([SPEC])[0].image
    files = [
        with_more(models_dir, part, dict.fromkeys(names, torch.zeros(3)), is_zip=is_zip)
        for part, names in SURPLUS.items()
    ]
    held = torch.load(files[1])
    torch.save(
        held | {"ema": {"x": torch.zeros(2)}, "image_disc": {"x": torch.zeros(2)}, "step": 7}, files[1]
    )
    with caplog.at_level(logging.INFO, logger="service.model.checkpoints.loader"):
        loaded = InfinityCheckpoint(config, models_dir).load(CPU)
    assert np.array_equal(Generator(loaded).generate([SPEC])[0].image, image)
    for file, names in zip(files, SURPLUS.values(), strict=True):
        (line,) = (message for message in caplog.messages if message.startswith(f"{file}: skipped "))
        assert [name for name in names if name not in line] == []


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("transformer", [f"spare_{letter}" for letter in "abcdefghijkl"]),
        ("tokenizer", ["lvl_1L", "losses.x"]),
    ],
)
def test_a_name_that_nobody_knows_is_still_refused(models_dir: Path, part: str, names: list[str]) -> None:
    more = dict.fromkeys((*names, *SURPLUS[part]), torch.zeros(3))
    file = with_more(models_dir, part, more)
    listed = ", ".join(sorted(names)[:10]) + (" and 2 more" if len(names) == 12 else "")
    with pytest.raises(
        ValueError, match=f"{file} does not fit .*: {len(names)} tensors unexpected: {listed}"
    ):
        InfinityCheckpoint(shrunk("infinity-2b"), models_dir).open_parts()


def test_a_longer_unconditional_text_is_cut_and_a_shorter_one_refused(models_dir: Path) -> None:
    config = shrunk("infinity-2b")
    tokens, channels = config.transformer.max_text_tokens, config.transformer.text_channels
    whole = InfinityCheckpoint(config, models_dir).load(CPU).transformer.unconditional_text
    rest = torch.full((5, channels), 9.0)
    with_more(models_dir, "transformer", {"cfg_uncond": torch.cat([whole, rest])})
    cut = InfinityCheckpoint(config, models_dir).load(CPU).transformer.unconditional_text
    assert torch.equal(cut, whole)
    for shape in ((tokens - 1, channels), (tokens + 1, channels + 1)):
        with_more(models_dir, "transformer", {"cfg_uncond": torch.zeros(shape)})
        sentence = f"cfg_uncond is {shape[0]}x{shape[1]}, not {tokens}x{channels}"
        with pytest.raises(ValueError, match=sentence):
            InfinityCheckpoint(config, models_dir).open_parts()


def test_tensors_with_attributes_of_their_own_are_read_as_the_released_2b_has_them(models_dir: Path) -> None:
    """Its listing on the hub names `torch._tensor._rebuild_from_type_v2`, which torch writes for these."""
    file = models_dir / "infinity_2b_reg.pth"
    held = torch.load(file)
    for tensor in held.values():
        tensor.tag = "trained"
    torch.save(held, replace_file(file))
    assert b"_rebuild_from_type_v2" in file.read_bytes()
    assert InfinityCheckpoint(shrunk("infinity-2b"), models_dir).load(CPU)
