"""Infinity-2B at its true size, of random weights: `make large`; 20 GB of disk, 12 GB of memory, minutes.

Prints what it measured: peaks of memory, and how long reading and drawing took.
"""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from service.model.checkpoints.convert import convert
from service.model.checkpoints.loader import open_weights
from service.model.device.precision import Precision
from service.model.engine.generator import Generator
from service.model.engine.types import Drawing, ImageSpec, Styling, WeightedStyle
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import FilesConfig, InfinityConfig
from service.model.infinity.model_folder import InfinityCheckpoint
from service.model.infinity.presets import RELEASED
from service.model.schedule import Size
from tests.model.checkpoints.test_loader import official
from tests.support.peak_memory import peak_bytes, resident_bytes
from tests.support.pictures import gradient, saved
from tests.support.process import ROOT, serve
from tests.support.released_files import weight_bytes

pytestmark = [pytest.mark.large, pytest.mark.timeout(3600)]

HALF = Precision(torch.bfloat16, torch.bfloat16)
CPU, SIZE = torch.device("cpu"), Size(256, 256)
CONFIG = replace(RELEASED["infinity-2b"].config, budget="0.06M")
# The start of the official schedule, for a server that draws and warms up a single small size.
SMALL = ((1, 1), (2, 2), (4, 4), (6, 6), (8, 8))
T = TypeVar("T")
PROMPT = "a red star on a blue background"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released files, written by a process of its own, whose memory is measured."""
    folder = tmp_path_factory.mktemp("large")
    began = time.perf_counter()
    writing = subprocess.Popen(
        [sys.executable, "-m", "tests.support.released_files", "infinity-2b", folder], cwd=ROOT
    )
    _, status, usage = os.wait4(writing.pid, 0)
    writing.returncode = os.waitstatus_to_exitcode(status)
    assert writing.returncode == 0
    num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"written: {gb(num_bytes)} in {time.perf_counter() - began:.0f} s, peak {gb(1024 * usage.ru_maxrss)}")
    # Python, torch and transformers take half a gigabyte; the largest tensor, T5's words, a quarter.
    assert 1024 * usage.ru_maxrss < 1.5e9
    return folder


@pytest.mark.parametrize("part", ["transformer", "tokenizer"])
def test_the_files_hold_the_official_names_and_shapes(models_dir: Path, part: str) -> None:
    file = models_dir / getattr(CONFIG.files, part)
    stored = open_weights(file, nests=("vae",)).stored
    assert {name: tensor.shape for name, tensor in stored.items()} == official("infinity-2b", part)


def test_infinity_2b_is_read_and_draws_plain_images_and_in_a_style(models_dir: Path) -> None:
    read: list[Infinity] = []
    began = time.perf_counter()
    peak = peak_bytes(lambda: read.append(half(CONFIG, models_dir)))
    say(f"read in {time.perf_counter() - began:.1f} s, peak {gb(peak)}, weights {gb(read[0].resident_bytes)}")
    assert read[0].resident_bytes == weight_bytes("infinity-2b", HALF)
    shard = max(file.stat().st_size for file in models_dir.rglob("*") if file.is_file())
    assert peak < read[0].resident_bytes + shard + 0.5e9

    generator = Generator(read.pop())
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (300, 500, 3), dtype=np.uint8)
    style = timed("style feature", lambda: generator.extract_style(picture, SIZE))
    plain = ImageSpec(PROMPT, 1, SIZE)
    styled = replace(plain, styling=Styling((WeightedStyle(style),)))
    images: list[list[Drawing]] = []

    def draw(name: str, spec: ImageSpec) -> None:
        images.append(timed(name, lambda: generator.generate([spec])))

    for name, spec in (("plain image", plain), ("stylised image", styled)):
        taken = peak_bytes(partial(draw, name, spec))
        estimate = generator.backbone.batch_bytes(generator.backbone.schedules[SIZE], 1)
        say(f"{name}: peak {gb(taken)}; a stylised image is taken to need {gb(estimate)}")
        assert taken < estimate
    (first,), (second,) = images
    assert first.image.shape == second.image.shape == (256, 256, 3)
    assert np.ptp(first.image) > 0
    assert not np.array_equal(first.image, second.image)


def test_the_service_draws_with_it(models_dir: Path, tmp_path: Path) -> None:
    folder = models_dir / "mine"
    folder.mkdir()
    files = replace(CONFIG.files, **{part: f"../{name}" for part, name in _files(CONFIG)})
    config = replace(CONFIG, files=files, budget=None, grids=(SMALL,))
    (folder / "config.json").write_text(config.to_json())
    began = time.perf_counter()
    arguments = "--model", folder, "--data-dir", tmp_path / "store", "--precision", "bf16"
    with serve(*arguments, log=tmp_path / "log") as serving:
        say(f"serving after {time.perf_counter() - began:.0f} s")
        with httpx.Client(base_url=serving.url, timeout=1800) as client:
            uploaded = client.post("/v1/styles", files={"image": saved(gradient(), "PNG")})
            assert uploaded.status_code == 201, uploaded.text
            answer = timed(
                "request of a stylised image",
                lambda: client.post(
                    "/v1/images/generations",
                    json={"prompt": PROMPT, "style": uploaded.json()["id"], "seed": 1},
                    headers={"Accept": "image/png"},
                ),
            )
        assert answer.status_code == 200, answer.text
        assert Image.open(io.BytesIO(answer.content)).size == (128, 128)
        peak = resident_bytes("VmHWM", Path(f"/proc/{serving.process.pid}"))
        say(f"the server's peak: {gb(peak)}; {answer.headers['Server-Timing']}")


def test_a_converted_model_is_the_same_model_and_is_read_sooner(models_dir: Path, tmp_path: Path) -> None:
    """Both from the page cache: the second reading of each counts."""
    out = tmp_path / "converted"
    place = InfinityCheckpoint(CONFIG, models_dir)
    peak = peak_bytes(lambda: timed("conversion", lambda: convert(place, out, torch.bfloat16)))
    say(f"conversion: peak {gb(peak)}, {gb(sum(file.stat().st_size for file in out.rglob('*.safetensors')))}")
    seconds, fingerprints = [], set()
    for config, folder in ((CONFIG, models_dir), (replace(CONFIG, files=FilesConfig()), out)):
        for _ in range(2):
            began = time.perf_counter()
            infinity = half(config, folder)
            took = time.perf_counter() - began
            fingerprints.add(infinity.fingerprint)
            del infinity
            gc.collect()
        seconds.append(took)
    assert len(fingerprints) == 1
    released, converted = seconds
    say(
        f"read as released in {released:.1f} s, as converted in {converted:.1f} s: "
        f"{released / converted:.1f} times as fast, {torch.get_num_threads()} threads"
    )


def half(config: InfinityConfig, folder: Path) -> Infinity:
    return InfinityCheckpoint(config, folder).load(CPU, precision=HALF)


def _files(config: InfinityConfig) -> list[tuple[str, str]]:
    return [(part, getattr(config.files, part)) for part in ("transformer", "tokenizer", "text_encoder")]


def timed(name: str, work: Callable[[], T]) -> T:
    began = time.perf_counter()
    outcome = work()
    say(f"{name}: {time.perf_counter() - began:.1f} s")
    return outcome


def gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def say(line: str) -> None:
    print(f"\n{line}", flush=True)
