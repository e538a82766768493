"""The text encoder: its limits, and independence of everything but the prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from service.model.device.precision import TextEncoderDevice
from service.model.engine.types import UnknownWord
from service.model.infinity.t5 import TextEncoder
from service.model.nano.words import untrained_encoder, write_vocabulary
from service.training.captions import FILLERS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    untrained_encoder(write_vocabulary(tmp_path), 128).save_pretrained(tmp_path)
    return tmp_path


@torch.inference_mode()
def test_a_prompt_becomes_one_vector_a_token_and_the_end(folder: Path) -> None:
    encoder = TextEncoder.from_folder(folder, torch.device("cpu"))
    text = encoder.encode("a red glorp", 64)
    assert text.conditioning.shape == (4, 128)
    assert text.coverage.num_known == 2
    assert torch.equal(text.conditioning, encoder.encode("A  red, glorp!", 64).conditioning)


@torch.inference_mode()
def test_words_that_name_nothing_are_not_counted_as_known(folder: Path) -> None:
    encoder = TextEncoder.from_folder(folder, torch.device("cpu"), fillers=FILLERS)
    named = encoder.encode("a big red kitten drawn in neon", 64)
    assert named.coverage.num_known == 3
    assert encoder.encode("a picture of the glorp in some style", 64).coverage.num_known == 0


@torch.inference_mode()
def test_of_a_closed_vocabulary_unknown_words_are_named_with_the_nearest_known(folder: Path) -> None:
    encoder = TextEncoder.from_folder(folder, torch.device("cpu"), fillers=FILLERS)
    prompt = "A Huose, a huose of glorp on teh watercolr; the fourth: xyzzy"
    unknown = (UnknownWord("huose", "house"), UnknownWord("glorp", None), UnknownWord("teh", "teeth"))
    assert encoder.encode(prompt, 64).coverage.unknown_words == unknown
    assert encoder.coverage("a watercolr", 64).unknown_words == (UnknownWord("watercolr", "watercolor"),)
    assert encoder.encode("a red house", 64).coverage.unknown_words == ()
    is_open = TextEncoder.from_folder(folder, torch.device("cpu"))
    assert is_open.encode(prompt, 64).coverage.unknown_words == ()


@torch.inference_mode()
def test_a_long_prompt_is_cut_and_keeps_its_end_mark(folder: Path) -> None:
    encoder = TextEncoder.from_folder(folder, torch.device("cpu"))
    cut = encoder.encode("red " * 500, 10)
    assert cut.conditioning.shape == (10, 128)
    whole = encoder.encode("red " * 9, 64)
    assert torch.equal(cut.conditioning, whole.conditioning)
    assert (cut.coverage.is_cut, whole.coverage.is_cut) == (True, False)


@torch.inference_mode()
def test_an_empty_prompt_is_its_end_mark_alone(folder: Path) -> None:
    assert TextEncoder.from_folder(folder, torch.device("cpu")).encode("", 64).conditioning.shape == (1, 128)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}"):
        TextEncoder.from_folder(folder, torch.device("cpu"))


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_damaged_file_is_refused_with_the_folder(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read"):
        TextEncoder.from_folder(folder, torch.device("cpu"))


@torch.inference_mode()
@pytest.mark.parametrize("place", [TextEncoderDevice.CPU, TextEncoderDevice.FETCHED])
def test_an_encoder_away_from_the_transformer_reads_the_same(folder: Path, place: TextEncoderDevice) -> None:
    cpu = torch.device("cpu")
    beside, away = (
        TextEncoder.from_folder(folder, cpu, place=where) for where in (TextEncoderDevice.BESIDE, place)
    )
    for ours, theirs in zip(
        away.encode_all(["a red star", "neon"], 64),
        beside.encode_all(["a red star", "neon"], 64),
        strict=True,
    ):
        assert torch.equal(ours.conditioning, theirs.conditioning)


@torch.inference_mode()
def test_an_encoder_that_is_fetched_reads_with_copies_and_keeps_none(folder: Path) -> None:
    # The device without memory stands for a GPU: what is computed there has a shape alone.
    meta = torch.device("meta")
    encoder = TextEncoder.from_folder(folder, meta, place=TextEncoderDevice.FETCHED)
    assert encoder.encode("a red star", 64).conditioning.device == meta
    assert encoder.num_bytes == 0
    on_cpu = TextEncoder.from_folder(folder, meta, place=TextEncoderDevice.CPU)
    assert on_cpu.encode("a red star", 64).conditioning.shape == (4, 128)
    assert TextEncoder.from_folder(folder, torch.device("cpu")).num_bytes > 100_000


@torch.inference_mode()
def test_texts_are_fp32_whatever_the_encoder_computes_in(folder: Path) -> None:
    cpu = torch.device("cpu")
    full = TextEncoder.from_folder(folder, cpu).encode("a red star", 64).conditioning
    for dtype, most in ((torch.bfloat16, 0.03), (torch.float16, 0.004)):
        half = TextEncoder.from_folder(folder, cpu, dtype).encode("a red star", 64).conditioning
        assert half.dtype == torch.float32
        assert 0 < torch.dist(half, full) / full.norm() < most


@torch.inference_mode()
def test_prompts_that_are_padded_together_become_what_they_become_alone(folder: Path) -> None:
    encoder = TextEncoder.from_folder(folder, torch.device("cpu"))
    prompts = ["a red star", "", "a blue cat in neon on a purple wall, " * 3]
    alone = encoder.encode_all(prompts, 64)
    encoder.pads = True  # as on a GPU
    for ours, theirs in zip(encoder.encode_all(prompts, 64), alone, strict=True):
        assert ours.conditioning.shape == theirs.conditioning.shape
        assert torch.allclose(ours.conditioning, theirs.conditioning, atol=1e-5)
