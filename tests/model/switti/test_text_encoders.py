"""The two CLIPs: what the reference gives with padding and a mask, whatever the other prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.model.device.precision import TextEncoderDevice
from service.model.switti.config import TransformerConfig
from service.model.switti.text_encoders import TextEncoders, TextFeatures
from tests.support.tiny_clip import END, MAX_TOKENS, NUM_CHANNELS, tiny_clip, write_clips
from tests.support.tiny_switti import tiny_config

CPU = torch.device("cpu")
PROMPTS = ("a red star", "", "neon", "a big red house in neon", "red star in")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_clips(tmp_path_factory.mktemp("clips"))


def config(max_tokens: int = MAX_TOKENS) -> TransformerConfig:
    settings = tiny_config().transformer
    return TransformerConfig(
        depth=settings.depth, width=settings.width, num_heads=2, is_causal=False,
        text_channels=sum(NUM_CHANNELS), pooled_channels=NUM_CHANNELS[1], max_text_tokens=max_tokens,
    )  # fmt: skip


def encoders(folders: tuple[Path, Path], **changes: object) -> TextEncoders:
    return TextEncoders.from_folders(*folders, config(), CPU, **changes)  # type: ignore[arg-type]


def same(ours: TextFeatures, theirs: TextFeatures) -> bool:
    return torch.equal(ours.states, theirs.states) and torch.equal(ours.pooled, theirs.pooled)


@torch.inference_mode()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_becomes_what_the_padded_and_masked_reference_gives(
    folders: tuple[Path, Path], prompt: str
) -> None:
    texts = encoders(folders)
    ids = texts._words.encode(prompt).ids
    padded = torch.tensor([ids + [ids[-1]] * (MAX_TOKENS - len(ids))])
    mask = (torch.arange(MAX_TOKENS) < len(ids)).long()[None]
    states = []
    for index, channels in enumerate(NUM_CHANNELS):
        torch.manual_seed(index)
        output = tiny_clip(channels)(input_ids=padded, attention_mask=mask)
        states.append(output.last_hidden_state[0, : len(ids)])
    ours = texts.encode(prompt)
    assert torch.allclose(ours.states, torch.cat(states, -1), atol=1e-5)
    assert torch.allclose(ours.pooled, output.pooler_output[0], atol=1e-5)
    assert not ours.is_cut


@torch.inference_mode()
def test_a_prompt_is_encoded_bit_for_bit_alike_alone_and_with_others(folders: tuple[Path, Path]) -> None:
    texts = encoders(folders)
    together = texts.encode_all([*PROMPTS, "a red star", "neon star big"])
    for prompt, ours in zip(PROMPTS, together, strict=False):
        assert same(ours, texts.encode(prompt))
    assert same(together[0], together[len(PROMPTS)])


@torch.inference_mode()
def test_the_null_prompt_is_its_two_marks(folders: tuple[Path, Path]) -> None:
    text = encoders(folders).encode("")
    assert text.states.shape == (2, sum(NUM_CHANNELS))
    assert torch.equal(text.pooled, text.states[1, NUM_CHANNELS[0] :])


@torch.inference_mode()
def test_a_long_prompt_is_cut_and_keeps_its_end_mark(folders: tuple[Path, Path]) -> None:
    texts = encoders(folders)
    cut, whole = texts.encode("red " * 50), texts.encode("red " * (MAX_TOKENS - 2))
    assert same(cut, whole)
    assert (cut.is_cut, whole.is_cut) == (True, False)
    assert cut.states.shape[0] == MAX_TOKENS


@torch.inference_mode()
def test_an_end_mark_within_a_prompt_is_where_the_reference_pools(folders: tuple[Path, Path]) -> None:
    text = encoders(folders).encode(f"red {END} star")
    assert torch.equal(text.pooled, text.states[2, NUM_CHANNELS[0] :])


@torch.inference_mode()
def test_a_kept_text_does_not_keep_its_batch(folders: tuple[Path, Path]) -> None:
    text = encoders(folders).encode_all(["a red star", "big red star"])[0]
    for tensor in (text.states, text.pooled):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


@torch.inference_mode()
@pytest.mark.parametrize("place", [TextEncoderDevice.CPU, TextEncoderDevice.FETCHED])
def test_encoders_away_from_the_transformer_encode_the_same(
    folders: tuple[Path, Path], place: TextEncoderDevice
) -> None:
    assert same(encoders(folders, place=place).encode("a red star"), encoders(folders).encode("a red star"))


@torch.inference_mode()
def test_fetched_encoders_keep_nothing_on_the_device(folders: tuple[Path, Path]) -> None:
    # The device without memory stands for a GPU: what is computed there has a shape alone.
    meta = torch.device("meta")
    texts = TextEncoders.from_folders(*folders, config(), meta, place=TextEncoderDevice.FETCHED)
    assert texts.encode("a red star").states.device == meta
    assert texts.num_bytes == 0
    assert encoders(folders).num_bytes > 5_000


@torch.inference_mode()
def test_texts_are_fp32_whatever_the_encoders_compute_in(folders: tuple[Path, Path]) -> None:
    full, half = (
        TextEncoders.from_folders(*folders, config(), CPU, dtype).encode("a red star")
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.states.dtype == half.pooled.dtype == torch.float32
    assert 0 < torch.dist(half.states, full.states) < 0.05 * full.states.norm()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path, name: str, is_damaged: bool) -> None:
    folders = write_clips(tmp_path)
    if is_damaged:
        (folders[0] / name).write_bytes(b"damaged")
    else:
        (folders[0] / name).unlink()
    with pytest.raises(ValueError, match=f"{name} cannot be read" if is_damaged else f"has no {name}"):
        encoders(folders)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    folders = write_clips(tmp_path)
    file = folders[1] / "model.safetensors"
    tensors = load_file(file)
    del tensors["text_model.final_layer_norm.bias"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"1 tensors missing: text_model\.final_layer_norm\.bias"):
        encoders(folders)


def test_encoders_of_other_widths_or_in_the_wrong_order_are_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="give 48 channels, and 16 pooled; the transformer reads 48 and 32"):
        encoders((folders[1], folders[0]))


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    folders = write_clips(tmp_path)
    words = (folders[0] / "tokenizer.json").read_text()
    (folders[0] / "tokenizer.json").write_text(words.replace(END, "</s>"))
    with pytest.raises(ValueError, match="it is not a CLIP's"):
        encoders(folders)
