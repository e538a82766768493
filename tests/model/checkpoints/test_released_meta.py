"""The 8B models at their true size, without their memory: sparse files, and weights on the meta device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.model.checkpoints.loader import open_weights
from service.model.engine.types import Path as ImagePath
from service.model.engine.types import Text
from service.model.infinity.backbone import Infinity
from service.model.infinity.model_folder import InfinityCheckpoint
from service.model.infinity.presets import RELEASED
from service.model.schedule import Size
from tests.model.checkpoints.test_loader import official
from tests.support.released_files import (
    num_parameters,
    released_tokenizer,
    released_transformer,
    write_sparse_pth,
    write_sparse_shards,
)

pytestmark = pytest.mark.slow

META = torch.device("meta")


@pytest.fixture(scope="module", params=["infinity-8b", "infinity-8b-512"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def models_dir(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, config = tmp_path_factory.mktemp("sparse"), RELEASED[name].config
    shapes = released_transformer(config)
    write_sparse_shards(folder / config.files.transformer, shapes, torch.bfloat16, num_shards=4)
    write_sparse_pth(folder / config.files.tokenizer, released_tokenizer(config), torch.float32, nest="vae")
    return folder


def test_the_files_have_the_true_size_and_take_no_disk(name: str, models_dir: Path) -> None:
    files = [file for file in models_dir.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) > 16e9
    assert sum(512 * file.stat().st_blocks for file in files) < 8e6


def test_the_files_hold_the_official_names_and_shapes(name: str, models_dir: Path) -> None:
    files = RELEASED[name].config.files
    for part, file in (("transformer", files.transformer), ("tokenizer", files.tokenizer)):
        stored = open_weights(models_dir / file, nests=("vae",)).stored
        assert {key: tensor.shape for key, tensor in stored.items()} == official(name, part)


def test_eight_billion_weights_are_read_and_every_step_has_its_shape(name: str, models_dir: Path) -> None:
    """A stylised image from the first step to the decoded one; there are no numbers on the meta device."""
    # Four of the thirteen steps, the largest among them: the meta device takes its time with every layer.
    grids = (((1, 1), (2, 2), (4, 4), (64, 64)),)
    config = replace(RELEASED[name].config, budget=None, grids=grids)
    seen: list[tuple[int, int]] = []
    transformer, tokenizer = InfinityCheckpoint(config, models_dir).open_parts()
    transformer.make_resident(META, lambda _, *num_bytes: seen.append(num_bytes))
    tokenizer.make_resident(META, lambda *_: None)
    num_bytes = 4 * num_parameters(name)["transformer"]
    assert seen[-1] == (num_bytes, num_bytes)
    infinity = Infinity(config, transformer.module, tokenizer.module, None, fingerprint="0" * 16)
    if name == "infinity-8b-512":
        return

    schedule = infinity.schedules[Size(1024, 1024)]
    num_steps = len(schedule.scales)
    content = ImagePath(Text(torch.empty(9, 2048, device=META), 9, 9 * 2048 * 4), None, (3.0,) * num_steps)
    grid = infinity.feature_grids(schedule)[-1]
    assert (grid.height, grid.width) == (128, 128)
    with torch.inference_mode():
        cache = infinity.begin([content, replace(content, source=0, corrected=True)], schedule, num_steps)
        noise = infinity.noise([1], schedule, num_steps)
        feature = infinity.empty_features(cache)
        assert feature.shape == (1, 14, 128, 128)
        for step, scale in enumerate(schedule.scales, start=1):
            logits = infinity.predict(cache, feature, step)
            assert logits.shape == (len(feature), scale.num_tokens, 56, 2)
            codes = infinity.sample(cache, logits, noise, step)
            assert codes.shape == (len(feature), 14, 2 * scale.height, 2 * scale.width)
            feature = infinity.accumulate(cache, feature, codes, step)
            if step == infinity.key_step:
                feature = cache.fork(feature)
        assert infinity.tokenizer.decode(feature).shape == (2, 3, 1024, 1024)
