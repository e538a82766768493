"""config.json: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from service.model.schedule import Scale, Size
from service.model.switti.config import FilesConfig, SwittiConfig
from service.model.switti.presets import PRESETS
from service.model.switti.schedules import schedules
from tests.support.tiny_switti import tiny_config


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_configuration_is_written_and_read(name: str) -> None:
    config = PRESETS[name].config
    assert SwittiConfig.from_json(config.to_json()) == config
    own = replace(config, files=FilesConfig())
    assert "files" not in json.loads(own.to_json())
    assert SwittiConfig.from_json(own.to_json()) == own


@pytest.mark.parametrize(
    ("name", "num_tokens", "num_steps"),
    [
        ("switti-512", 2240, 10),
        ("switti-512-ar", 2240, 10),
        ("switti-1024", 9451, 14),
        ("switti-1024-ar", 9451, 14),
    ],
)
def test_a_preset_has_one_square_size(name: str, num_tokens: int, num_steps: int) -> None:
    config = PRESETS[name].config
    ((size, schedule),) = schedules(config).items()
    assert size == schedule.size == Size(config.pixels, config.pixels)
    assert (schedule.num_tokens, len(schedule.scales)) == (num_tokens, num_steps)
    assert schedule.scales[0] == Scale(1, 1)
    assert config.transformer.is_causal == name.endswith("-ar")


def test_a_released_transformer_has_its_widths() -> None:
    transformer = PRESETS["switti-512"].config.transformer
    assert (transformer.head_width, transformer.feedforward_width) == (64, 5120)


def edited(*path: str, value: Any = None) -> str:
    settings = json.loads(tiny_config().to_json())
    place = settings
    for name in path[:-1]:
        place = place[name]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(settings)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "Expecting property name"),
        ("[]", "family: must be 'switti'"),
        (edited("transformer", "depth"), "transformer.depth: Field required"),
        (edited("transformer", "heads", value=3), "transformer.heads: Unknown field"),
        (edited("transformer", "depth", value="2"), "transformer.depth: must be a valid integer, not '2'"),
        (edited("transformer", "depth", value=True), "transformer.depth: must be a valid integer, not True"),
        (
            edited("transformer", "is_causal", value=1),
            "transformer.is_causal: must be a valid boolean, not 1",
        ),
        (
            edited("sampling", "smooth_start_step", value="x"),
            "smooth_start_step: must be a valid integer, not 'x'",
        ),
        (edited("tokenizer", value=3), "tokenizer: must be an object"),
        (edited("grids", value=4), "grids: must be a list, not 4"),
        (edited("grids", value=[1, "2"]), "grids.1: must be a valid integer, not '2'"),
        (edited("grids", value=[3, 2]), "grids: must be at least two sides, each larger"),
        (edited("grids", value=[1]), "grids: must be at least two sides"),
        (edited("style", "key_step", value=5), "style.key_step: must be from 1 to 4, .* not 5"),
        (edited("transformer", "num_heads", value=3), "transformer.num_heads: must divide transformer.width"),
        (edited("transformer", "num_heads", value=16), "a head must have a multiple of 4 channels"),
    ],
)
def test_what_is_wrong_is_named(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SwittiConfig.from_json(text)


def test_whole_numbers_are_read_where_fractions_may_be() -> None:
    config = SwittiConfig.from_json(edited("sampling", "guidance_growth", value=4))
    assert config.sampling.guidance_growth == 4.0
    assert isinstance(config.sampling.guidance_growth, float)


@pytest.mark.slow
def test_a_configuration_is_read_without_pydantic_and_transformers() -> None:
    code = (
        "import sys; from service.model.switti.presets import PRESETS; "
        "from service.model.switti.config import SwittiConfig; "
        "SwittiConfig.from_json(PRESETS['switti-512'].config.to_json()); "
        "print({'pydantic', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
