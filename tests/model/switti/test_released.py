"""The released checkpoints: what the presets say of them; files fetched, loaded, converted and served."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from service.model.checkpoints import registry
from service.model.checkpoints.convert import convert
from service.model.checkpoints.family import Preset
from service.model.checkpoints.fetch import Hub
from service.model.checkpoints.memory_budget import memory_needs
from service.model.checkpoints.options import LoadOptions
from service.model.device.precision import FULL, Precision
from service.model.engine.types import ImageSpec
from service.model.schedule import Size
from service.model.switti.config import SwittiConfig
from service.model.switti.model_folder import FAMILY, SwittiCheckpoint, empty_networks
from service.model.switti.presets import CLIP, POOLED_CLIP, POOLED_TEXT_PARAMETERS, PRESETS, TEXT_PARAMETERS
from tests.support.generations import generate, images_of
from tests.support.local_hub import local_hub
from tests.support.released_switti import shrunk, write_released
from tests.support.server import ready_server
from tests.support.uploads import picture, upload

pytestmark = pytest.mark.slow

SIZE = Size(96, 96)
# The local hub has other commits.
UNPINNED = {source.repository: "main" for preset in PRESETS.values() for source in preset.sources}


@pytest.fixture(scope="module", params=["switti-512", "switti-1024-ar"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def written(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a preset's files, shrunk."""
    folder = tmp_path_factory.mktemp("models")
    write_released(folder, shrunk(name))
    return folder


@pytest.fixture
def models_dir(name: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the same files, and the preset in the registry as small as they are."""
    shutil.copytree(written, tmp_path / "models")
    monkeypatch.setitem(registry.PRESETS, name, (FAMILY, Preset(shrunk(name), PRESETS[name].sources)))
    return tmp_path / "models"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_size_of_the_released_files(preset: str) -> None:
    counts = [
        sum(p.numel() for p in module.parameters()) for module in empty_networks(PRESETS[preset].config)
    ]
    # As in the golden README, 7, where the two transformers are 2.476 and 2.560 with their buffers.
    assert [round(count / 1e9, 3) for count in counts] == [2.471, 0.109]
    checkpoint = SwittiCheckpoint(PRESETS[preset].config, Path())
    assert checkpoint.weight_bytes(torch.float32) == 4 * sum(counts)
    assert checkpoint.text_encoder_bytes(FULL) == 4 * (TEXT_PARAMETERS + POOLED_TEXT_PARAMETERS)
    assert checkpoint.text_encoder_bytes(Precision(torch.bfloat16, torch.float16)) == 2 * (
        TEXT_PARAMETERS + POOLED_TEXT_PARAMETERS
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_needs_is_told_without_files(preset: str, tmp_path: Path) -> None:
    checkpoint = registry.find(preset, tmp_path, needs_files=False)
    (need,) = memory_needs(checkpoint, LoadOptions())
    assert need.name == preset
    assert 6e9 < need.weights < 8e9
    assert need.batches[-1] > need.batches[0] > 0
    with pytest.raises(ValueError, match=f"which is missing: `atelier fetch {preset}`"):
        registry.find(preset, tmp_path)


def test_released_files_are_loaded_strictly_through_the_registry_and_draw(
    name: str, models_dir: Path
) -> None:
    seen: set[str] = set()
    generator = registry.load(name, models_dir=models_dir, on_progress=lambda file, *_: seen.add(file))
    assert generator.name == name
    assert len(seen) == 4  # both networks and both text encoders
    first, again = (generator.generate([ImageSpec("a red star", 1, SIZE)])[0].image for _ in range(2))
    assert first.shape == (96, 96, 3)
    assert np.ptp(first) > 0
    assert np.array_equal(first, again)


def test_they_are_served_over_http(name: str, models_dir: Path, tmp_path: Path) -> None:
    generator = registry.load(name, models_dir=models_dir)
    with ready_server(tmp_path / "data", generator) as (_, client):
        (model,) = client.get("/v1/models").json()["data"]
        assert (model["id"], model["fingerprint"]) == (name, generator.fingerprint)
        style = upload(client, picture(1)).json()
        plain, styled, by_code = (
            Image.open(BytesIO(images_of(generate(client, seed=1, **extra))[0])).tobytes()
            for extra in ({}, {"style": style["id"]}, {"style": style["code"]})
        )
        assert plain != styled
        assert by_code == styled


@pytest.mark.parametrize("part", ["transformer", "tokenizer"])
@pytest.mark.parametrize("change", ["missing", "unexpected", "of another shape"])
def test_a_tensor_that_does_not_fit_is_named(name: str, models_dir: Path, part: str, change: str) -> None:
    file = models_dir / getattr(shrunk(name).files, part) / "model.safetensors"
    tensor = {"transformer": "blocks.1.attn.proj.weight", "tokenizer": "quantize.embedding.weight"}[part]
    tensors = load_file(file)
    if change == "missing":
        del tensors[tensor]
    elif change == "unexpected":
        tensors["spare"] = torch.zeros(2)
    else:
        tensors[tensor] = tensors[tensor][:-1].clone()
    save_file(tensors, file)
    with pytest.raises(ValueError, match=f"1 tensors {change}") as raised:
        registry.load(name, models_dir=models_dir)
    assert ("spare" if change == "unexpected" else tensor) in str(raised.value)


def test_a_converted_model_draws_the_same_and_has_the_same_styles(name: str, models_dir: Path) -> None:
    released = registry.load(name, models_dir=models_dir)
    convert(registry.find(name, models_dir), registry.converted_folder(name, models_dir))
    assert isinstance(registry.open_folder(models_dir / name), SwittiCheckpoint)
    for folder in ("yresearch", "clip-vit-large-patch14", "clip-vit-bigg-14"):
        shutil.rmtree(models_dir / folder)
    converted = registry.load(name, models_dir=models_dir)
    assert converted.fingerprint == released.fingerprint
    ours, theirs = (
        each.generate([ImageSpec("a red star", 1, SIZE)])[0].image for each in (converted, released)
    )
    assert np.array_equal(ours, theirs)


def test_a_converted_model_in_bf16_is_smaller_and_draws(name: str, models_dir: Path) -> None:
    convert(registry.find(name, models_dir), models_dir / name, torch.bfloat16)
    half = registry.load(name, models_dir=models_dir, choices=LoadOptions(precision="bf16"))
    assert half.precision == "bf16"
    assert np.ptp(half.generate([ImageSpec("a red star", 1, SIZE)])[0].image) > 0
    stored = load_file(models_dir / name / "transformer.safetensors")
    assert {stored["blocks.0.attn.proj.weight"].dtype, stored["head.weight"].dtype} == {
        torch.bfloat16, torch.float32,
    }  # fmt: skip


def test_a_start_without_room_is_refused_with_the_numbers(
    name: str, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match=rf"{name} does not fit: .* take .* and 1.00 kB are free on the CPU"):
        registry.load(name, models_dir=models_dir)


def test_strips_are_refused(name: str, models_dir: Path) -> None:
    with pytest.raises(ValueError, match=f"ATELIER_DECODING is strips, and {name} decodes images whole"):
        registry.load(name, models_dir=models_dir, choices=LoadOptions(decoding="strips"))


def repositories(folder: Path, config: SwittiConfig, name: str) -> dict[str, dict[str, bytes]]:
    """What the hub has of a models folder, and other files besides."""
    return {
        source.repository: {
            file.name: file.read_bytes() for file in (folder / source.into).iterdir() if file.is_file()
        }
        | {"README.md": b"hello"}
        for source in PRESETS[name].sources
    }


def test_what_is_fetched_is_what_is_loaded(
    name: str, written: Path, models_dir: Path, tmp_path: Path
) -> None:
    into = tmp_path / "fetched"
    with local_hub(repositories(written, shrunk(name), name)) as hub:
        plan = Hub(hub.url).plan(name, into, UNPINNED)
        Hub(hub.url).fetch(plan, lambda _: None)
    assert not list(into.rglob("README.md"))
    fetched, known = (registry.load(name, models_dir=folder) for folder in (into, models_dir))
    assert fetched.fingerprint == known.fingerprint


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_fetched_from_its_repositories(preset: str) -> None:
    names = [source.repository for source in PRESETS[preset].sources]
    assert names[1:] == ["yresearch/VQVAE-Switti", CLIP.repository, POOLED_CLIP.repository]
    suffix = ("-1024" if "1024" in preset else "") + ("-AR" if preset.endswith("ar") else "")
    assert names[0] == f"yresearch/Switti{suffix}"
    # Where `convert` writes must be free, also where case makes no difference.
    assert preset not in {source.into.lower() for source in PRESETS[preset].sources}
