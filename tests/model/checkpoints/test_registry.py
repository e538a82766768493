"""config.json and the family it names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.model.checkpoints.config_file import read_dataclass
from service.model.checkpoints.registry import open_folder
from tests.support.tiny import tiny_config


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    width: int
    guidance: float | tuple[float, ...]
    grids: tuple[tuple[int, int], ...] = ()
    name: str | None = None
    inner: Inner | None = None


GIVEN: dict[str, Any] = {"width": 3, "guidance": 4}


def test_json_becomes_dataclasses_and_tuples() -> None:
    assert read_dataclass(Outer, GIVEN) == Outer(3, 4.0)
    given = {"width": 3.0, "guidance": [1, 2.5], "grids": [[1, 2]], "name": None, "inner": {"sizes": [5]}}
    assert read_dataclass(Outer, given) == Outer(3, (1.0, 2.5), ((1, 2),), None, Inner((5,)))
    assert type(read_dataclass(Outer, GIVEN).guidance) is float


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"guidance": 1.0}, "^width: Field required"),
        (GIVEN | {"width": True}, "^width: must be a valid integer, not True"),
        (GIVEN | {"width": 2.5}, "^width: must be a valid integer, not 2.5"),
        (GIVEN | {"widht": 1}, "^widht: Unknown field"),
        (GIVEN | {"guidance": "4"}, "^guidance: must be a valid number, not '4'"),
        (GIVEN | {"guidance": [1.0, None]}, r"^guidance\.1: must be a valid number, not None"),
        (GIVEN | {"grids": [[1, 2], [3]]}, r"^grids\.1: must have 2 values, not 1"),
        (GIVEN | {"grids": 3}, "^grids: must be a list, not 3"),
        (GIVEN | {"name": 5}, "^name: must be a valid string, not 5"),
        (GIVEN | {"inner": {"sizes": [1], "more": 2}}, r"^inner\.more: Unknown field"),
        (GIVEN | {"inner": [1]}, "^inner: must be an object"),
        ([], "^must be an object"),
    ],
)
def test_a_mistake_names_its_field(given: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_dataclass(Outer, given)


def test_a_folder_is_of_the_family_it_names_and_an_infinity_by_default(tmp_path: Path) -> None:
    settings = json.loads(tiny_config().to_json())
    file = tmp_path / "config.json"
    for family in ({}, {"family": "infinity"}):
        file.write_text(json.dumps(settings | family))
        assert open_folder(tmp_path).name == "tiny"
    for text, sentence in (
        (json.dumps(settings | {"family": "other"}), "family: must be one of infinity.*, not 'other'"),
        ("[]", "must be an object"),
        ("{", "config.json: "),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"config\.json: .*{sentence}" if text != "{" else sentence):
            open_folder(tmp_path)
