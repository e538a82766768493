"""How many images fit: beside resident weights, on graphics cards, and what is said when there is no room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from service.cli.main import cli
from service.model.checkpoints.memory_budget import memory_needs, require_room, require_room_for_weights
from service.model.checkpoints.options import LoadOptions
from service.model.checkpoints.registry import find, load, names
from service.model.device.memory import MAX_IMAGES, BatchLimits, batch_limits, free_bytes
from service.model.device.precision import FULL, Precision
from service.model.infinity.config import TransformerConfig
from service.model.infinity.model_folder import InfinityCheckpoint
from service.model.infinity.presets import RELEASED
from service.model.infinity.schedules import schedule
from service.model.schedule import Size
from service.training.write import write_infinity
from tests.support.process import ROOT
from tests.support.tiny import tiny_config, tiny_infinity

pytestmark = pytest.mark.slow

INFINITY = tiny_infinity(tiny_config(budget="0.25M", grids=()))
CHECKPOINT = InfinityCheckpoint(INFINITY.config, Path())
SIZE = Size(512, 512) if Size(512, 512) in INFINITY.schedules else next(iter(INFINITY.schedules))


def test_what_fits_now_is_what_the_free_memory_holds() -> None:
    found = batch_limits(INFINITY)
    assert found.num_bytes < free_bytes(INFINITY.device)
    assert found.max_images == batch_limits(INFINITY, found.num_bytes).max_images


def test_a_batch_is_as_large_as_the_memory_and_no_larger() -> None:
    three = INFINITY.batch_bytes(INFINITY.schedules[SIZE], 3)
    assert batch_limits(INFINITY, three).max_images[SIZE] == 3
    assert batch_limits(INFINITY, three - 1).max_images[SIZE] == 2
    assert batch_limits(INFINITY, 0).max_images[SIZE] == 0
    assert batch_limits(INFINITY, 2**50).max_images[SIZE] == MAX_IMAGES


def test_weights_that_do_not_fit_are_refused_before_any_is_read(tmp_path: Path) -> None:
    enormous = replace(RELEASED["infinity-8b"].config, transformer=TransformerConfig(
        depth=4, width=358_400, num_heads=2_800, text_channels=2048))  # fmt: skip
    (tmp_path / "config.json").write_text(enormous.to_json())  # and no weights beside it
    sentence = r"^infinity-8b does not fit: .* take \d{4,}\.\d+ GB, and .* are free on the CPU"
    with pytest.raises(ValueError, match=sentence):
        load(str(tmp_path), "cpu")


@pytest.mark.parametrize(
    ("precision", "free", "helps"),
    [
        (Precision(), 9e9, "ATELIER_PRECISION=bf16, with which they take"),
        (
            Precision(torch.bfloat16, torch.float16),
            3e9,
            "ATELIER_TEXT_DEVICE=cpu, for the text encoder's part",
        ),
        (Precision(), 3e9, "a smaller model"),
    ],
)
def test_a_shortage_says_what_would_be_enough(precision: Precision, free: float, helps: str) -> None:
    checkpoint, gpu = InfinityCheckpoint(RELEASED["infinity-2b"].config, Path()), torch.device("cuda")
    with pytest.raises(ValueError, match=r"does not fit: .* free on the CUDA\. What would help") as error:
        require_room_for_weights(checkpoint, precision, gpu, int(free))
    assert helps in str(error.value)
    assert ("PRECISION=bf16" in str(error.value)) == (free == 9e9)
    require_room_for_weights(checkpoint, precision, gpu, int(20e9))


def test_a_start_without_room_for_one_image_says_the_numbers() -> None:
    need = INFINITY.batch_bytes(INFINITY.schedules[SIZE], 1)
    require_room(CHECKPOINT, INFINITY, FULL, [SIZE], batch_limits(INFINITY, need))
    with pytest.raises(ValueError, match=r"tiny has no room to draw") as raised:
        require_room(CHECKPOINT, INFINITY, FULL, [SIZE], batch_limits(INFINITY, 40 * 10**6))
    sentence = str(raised.value)
    assert (
        f"one stylised image of {SIZE} takes {need / 10**6:.2f} MB beside the weights, which take "
        in sentence
    )
    assert "there are 40.00 MB for it: 80% of what is free on the CPU. What would help: " in sentence
    assert sentence.endswith("a smaller model: `atelier fit` lists what each takes.")


def test_only_what_would_be_enough_is_said_to_help() -> None:
    def remedies(num_bytes: int) -> str:
        with pytest.raises(ValueError, match="What would help") as raised:
            require_room(CHECKPOINT, INFINITY, FULL, [SIZE], BatchLimits(num_bytes, {SIZE: 0}))
        return str(raised.value).partition("What would help: ")[2]

    one = INFINITY.batch_bytes(INFINITY.schedules[SIZE], 1)
    assert all(remedy in remedies(one - 1) for remedy in ("ATELIER_PRECISION=bf16", "the budget 0.06M"))
    assert remedies(10**6) == "a smaller model: `atelier fit` lists what each takes."


def test_a_size_that_is_not_enabled_needs_no_room() -> None:
    other = next(size for size in INFINITY.schedules if size != SIZE)
    require_room(CHECKPOINT, INFINITY, FULL, [SIZE], BatchLimits(10**9, {SIZE: 1, other: 0}))


def test_the_models_page_has_the_table_that_the_command_prints() -> None:
    run = CliRunner().invoke(cli, ["fit"])
    assert run.exit_code == 0, run.stderr
    assert run.stdout.strip() in (ROOT / "docs" / "models.md").read_text()
    assert all(f"| `{name}` |" in run.stdout for name in names())


def test_one_model_is_told_at_every_size(tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["fit", "--model", "infinity-2b"])
    assert run.stdout.count("| `infinity-2b` |") == 15
    config = tiny_config()
    write_infinity(tmp_path, config, INFINITY.transformer, INFINITY.tokenizer, torch.float32)
    missing = CliRunner().invoke(cli, ["fit", "--model", str(tmp_path)])
    assert missing.exit_code == 1
    assert "text_encoder is missing" in missing.stderr


def test_half_precision_and_a_text_encoder_elsewhere_leave_more_room() -> None:
    def of_2b(**choices: str) -> tuple[int, int]:
        checkpoint = find("infinity-2b", Path(), needs_files=False)
        need = memory_needs(checkpoint, LoadOptions(**choices))[0]  # type: ignore[arg-type]
        return need.weights, need.batches[0]

    full, half, elsewhere = of_2b(precision="fp32"), of_2b(), of_2b(text_device="cpu")
    assert full[0] > half[0] > elsewhere[0]
    assert full[1] > half[1] == elsewhere[1]


def test_the_cache_of_a_stylised_image_has_the_size_that_the_method_gives() -> None:
    """2.76 GB a row of 2B at 1024 x 1024; three rows' worth with shared keys."""
    from service.model.infinity.memory import footprint
    from service.model.infinity.presets import RELEASED

    config, square = RELEASED["infinity-2b"].config, schedule(1.0, "1M")
    found = footprint(config, square, 1, Precision(torch.bfloat16).blocks, lambda _: 1)
    of_texts = 2 * 4 * 512 * 2 * 32 * 2048
    assert found.cache - of_texts == 3 * 2 * 10_521 * 2 * 32 * 2048
    assert round((found.cache - of_texts) / 3e9, 2) == 2.76
