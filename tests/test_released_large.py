"""Infinity-2B at its true size, of random weights: `pytest -m large`; 8 GB of disk, 16 GB of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.model.backbone import Size
from service.model.generator import Generator, ImageSpec
from service.model.infinity.folder import read_infinity
from service.model.infinity.released import RELEASED
from service.model.precision import Precision
from tests.synthetic import FLAN_XL, write_released

pytestmark = [pytest.mark.large, pytest.mark.timeout(3600)]
CPU = torch.device("cpu")
HALF = Precision(torch.bfloat16, torch.bfloat16)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    write_released(folder, RELEASED["infinity-2b"].config, FLAN_XL, torch.bfloat16)
    return folder


def test_infinity_2b_is_read_in_half_precision(models_dir: Path) -> None:
    infinity = read_infinity(RELEASED["infinity-2b"].config, models_dir, CPU, precision=HALF)
    assert infinity.resident_bytes == RELEASED["infinity-2b"].resident_bytes(HALF)
    assert all(each.isfinite().all() for each in infinity.transformer.parameters())


def test_infinity_2b_draws(models_dir: Path) -> None:
    config = replace(RELEASED["infinity-2b"].config, budget="0.06M")
    generator = Generator(read_infinity(config, models_dir, CPU))
    (drawing,) = generator.generate([ImageSpec("a red star", 1, Size(256, 256))])
    assert drawing.image.shape == (256, 256, 3)
    assert np.ptp(drawing.image) > 0
