"""What the loop over scales does not do: wait for the device, or compute for nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from service.model.engine.generator import Generator
from service.model.engine.types import Area, ContentPicture, Edit, ImageSpec, Styling, WeightedStyle
from tests.support.process import ROOT
from tests.support.specs import SQUARE, picture, specs
from tests.support.tiny import tiny_generator, tiny_infinity

pytestmark = pytest.mark.slow

# What makes a host wait for a device: a number read from a tensor, or a shape that depends on one.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}


class Watching(TorchDispatchMode):
    """Notes each operation that a host has to wait for, and where the test said that something happened."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_the_loop_over_scales_never_waits_for_the_device() -> None:
    generator = tiny_generator()
    batch = specs(generator, SQUARE)
    photo, left = ContentPicture("photo", picture(5)), Area(np.indices((64, 64))[1] < 20)
    batch += [
        replace(batch[0], edit=Edit(photo, 0.3, left)),
        replace(batch[1], edit=Edit(photo, 0.0), prompt=None),
        replace(batch[2], edit=Edit(photo, 0.5)),
    ]
    generator.generate(batch)  # reads the picture
    with Watching() as watching:

        def after_a_step() -> bool:
            watching.seen.append("step")
            return False

        generator.generate(batch, after_a_step)
    first, last = watching.seen.index("step"), len(watching.seen) - 1 - watching.seen[::-1].index("step")
    assert watching.seen[first : last + 1] == ["step"] * generator.num_steps(SQUARE)
    assert "is_nonzero" in watching.seen[last:]  # the question after the loop: are they finite?


def test_on_a_gpu_the_loop_waits_for_one_decomposition_at_the_key_step_and_nothing_else() -> None:
    """On one that is not there: every operation is called on its device, of shapes without values."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.fake_device"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout)
    assert [num_graphs for *_, num_graphs in found] == [0, 0, 5]  # all steps of the last but its last
    for steps, decoding, num_sent, _ in found:
        assert steps == [[], [], ["linalg_eigh"], [], [], []]
        assert decoding == []
        assert num_sent > 6  # noise, for each step, and more


def test_a_content_path_that_nobody_asked_for_has_no_logits_and_no_image_at_the_end() -> None:
    model = tiny_infinity()
    seen: list[int] = []
    model.transformer.head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    decoded: list[int] = []
    model.tokenizer.decoder.register_forward_hook(lambda _, inputs, __: decoded.append(len(inputs[0])))
    generator = Generator(model)
    spec = ImageSpec("a red star", 1, SQUARE)
    styled = replace(spec, styling=Styling((WeightedStyle(generator.extract_style(picture(0), SQUARE)),)))
    (alone,) = generator.generate([styled])
    assert seen == [2, 2, 2, 4, 4, 2]
    assert len(decoded) == 1
    seen.clear()
    beside, plain = generator.generate([styled, spec])
    assert seen == [2, 2, 2, 4, 4, 4]
    assert np.array_equal(beside.image, alone.image)
    assert np.array_equal(plain.image, generator.generate([spec])[0].image)
