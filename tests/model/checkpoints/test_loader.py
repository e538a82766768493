"""Names, shapes and files: what fits loads, what does not is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.model.checkpoints.loader import Naming, load_into, load_weights, open_weights, shapes_of
from service.model.device.memory import free_bytes
from service.model.infinity.model_folder import empty_networks
from service.model.infinity.presets import RELEASED
from service.model.infinity.weight_names import tokenizer_from_official, transformer_from_official
from tests.support.released_files import released_tokenizer, released_transformer

KEYS = Path(__file__).parents[2] / "golden" / "official_keys"


def official(name: str, part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the reference; both 8B checkpoints have the same."""
    stored = json.loads((KEYS / f"{name.removesuffix('-512')}.{part}.json").read_text())
    return {key: tuple(shape) for key, shape in stored.items()}


@pytest.mark.parametrize("name", RELEASED)
def test_a_preset_expects_exactly_the_official_names_and_shapes(name: str) -> None:
    config = RELEASED[name].config
    assert released_transformer(config) == official(name, "transformer")
    assert released_tokenizer(config) == official(name, "tokenizer")


@pytest.mark.parametrize("name", RELEASED)
def test_every_name_of_a_released_file_is_one_of_ours(name: str) -> None:
    config = RELEASED[name].config
    transformer, tokenizer = map(shapes_of, empty_networks(config))
    stored = released_transformer(config)
    assert transformer_from_official(stored, config.transformer.blocks_per_chunk) == transformer
    assert tokenizer_from_official(released_tokenizer(config)) == tokenizer


def test_unwrapped_names_and_constant_buffers_are_accepted_in_silence() -> None:
    zero = torch.zeros(1)
    names = [
        "encoder.conv_in.weight",
        "decoder.up.1.upsample.conv.weight",
        "quantizer.lfq.mask",
        "quantize.lfq.mask",
    ]
    assert list(tokenizer_from_official(dict.fromkeys(names, zero))) == [
        *names[:1],
        "decoder.up.1.resample.conv.weight",
    ]
    buffer = {"block_chunks.0.module.0.sa.zero_k_bias": zero}
    assert transformer_from_official(buffer, 1) == {}


def test_an_official_name_that_is_none_of_ours_is_reported_by_that_name() -> None:
    renamed = transformer_from_official({"surprise.weight": torch.zeros(1)}, 1)
    with pytest.raises(
        ValueError, match=r"file\.pth.*1 tensors missing: weight.*1 tensors unexpected: surprise\.weight"
    ):
        load_into(nn.Linear(1, 1, bias=False), renamed, source="file.pth")


def test_a_tensor_of_another_shape_is_named_with_both() -> None:
    with pytest.raises(ValueError, match="weight is 2x3, not 3x2"):
        load_into(nn.Linear(2, 3, bias=False), {"weight": torch.zeros(2, 3)}, source="x")


def test_many_differences_are_counted_not_listed() -> None:
    first_ten = ", ".join(f"a{index:02}" for index in range(10))
    with pytest.raises(ValueError, match=f"15 tensors unexpected: {first_ten} and 5 more"):
        load_into(nn.Identity(), {f"a{index:02}": torch.zeros(1) for index in range(15)}, source="x")


def test_half_precision_files_load_into_fp32() -> None:
    module = nn.Linear(2, 1, bias=False)
    load_into(module, {"weight": torch.tensor([[0.5, -2.0]]).half()}, source="x")
    assert module.weight.dtype == torch.float32
    assert module.weight.tolist() == [[0.5, -2.0]]


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="what is mapped is read from /proc")
AS_THEY_ARE = Naming(ours=dict, released=dict)


def loaded(file: Path, dtype: torch.dtype) -> tuple[nn.Linear, int]:
    module = nn.Linear(64, 32, bias=False, dtype=dtype).requires_grad_(False)
    return module, load_weights(module, open_weights(file), AS_THEY_ARE, model="a layer")


@pytest.fixture(params=["layer.safetensors", "layer.pth"])
def half_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Tensor]:
    file, weight = tmp_path / request.param, torch.randn(32, 64).bfloat16()
    (save_file if file.suffix == ".safetensors" else torch.save)({"weight": weight}, file)
    return file, weight


@ON_LINUX
def test_what_is_stored_as_it_is_wanted_is_not_copied(half_file: tuple[Path, Tensor]) -> None:
    file, weight = half_file
    module, num_mapped = loaded(file, torch.bfloat16)
    assert num_mapped == weight.nbytes
    assert torch.equal(module.weight, weight)
    assert str(file) in _mapped_at(module.weight.data_ptr())


@ON_LINUX
def test_what_is_stored_otherwise_is_converted(half_file: tuple[Path, Tensor]) -> None:
    file, weight = half_file
    module, num_mapped = loaded(file, torch.float32)
    assert num_mapped == 0
    assert torch.equal(module.weight, weight.float())
    assert str(file) not in _mapped_at(module.weight.data_ptr())


def test_mapped_weights_outlive_the_files_name_and_never_change_it(half_file: tuple[Path, Tensor]) -> None:
    file, weight = half_file
    before = file.read_bytes()
    module, _ = loaded(file, torch.bfloat16)
    module.weight.zero_()
    assert file.read_bytes() == before
    again, _ = loaded(file, torch.bfloat16)
    file.with_name("new").write_bytes(bytes(len(before)))
    file.with_name("new").replace(file)  # as `atelier convert` and `fetch` put a file in another's place
    assert torch.equal(again.weight, weight)


def test_mapped_weights_are_not_free_memory() -> None:
    cpu = torch.device("cpu")
    assert free_bytes(cpu, 2**30) == pytest.approx(free_bytes(cpu) - 2**30, abs=2**29)
    assert free_bytes(cpu, 2**60) == 0


def _mapped_at(address: int) -> str:
    """What /proc says is mapped there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
        if start <= address < end:
            return line
    return ""
