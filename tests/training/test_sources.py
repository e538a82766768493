"""The packages that nano's things come from: checked by hash, rasterised by name. No network is needed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.model.nano.words import THINGS
from service.training.sources import CLAY, FLAT, INK, NAMES, SOURCES, fetch, make_sprites

_CODES = [f"{0x1F000 + index:X}" for index in range(len(THINGS))]


def write(archive: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def icons(shape: str) -> dict[str, bytes]:
    """A set in which every thing is the shape; the last thing alone is blue."""
    colours = ["#f00"] * (len(_CODES) - 1) + ["#00f"]
    bodies = {
        f"n{code}": {"body": shape.format(colour)} for code, colour in zip(_CODES, colours, strict=True)
    }
    return {
        "package/icons.json": json.dumps({"width": 32, "icons": bodies}).encode(),
        "package/chars.json": json.dumps({code.lower(): f"n{code}" for code in _CODES}).encode(),
    }


@pytest.fixture(name="sources")
def fixture_sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    file = io.BytesIO()
    Image.new("RGBA", (40, 20), (0, 255, 0, 255)).save(file, "WEBP", lossless=True)
    write(folder / FLAT.archive, icons('<rect x="4" y="4" width="8" height="16" fill="{}"/>'))
    write(folder / INK.archive, icons('<circle cx="16" cy="16" r="9" fill="{}"/>'))
    write(folder / CLAY.archive, {f"package/assets/{code.lower()}.webp": file.getvalue() for code in _CODES})
    labels = [
        {"label": thing.label, "hexcode": f"{code}-FE0F"} for thing, code in zip(THINGS, _CODES, strict=True)
    ]
    write(folder / NAMES.archive, {"package/en/data.json": json.dumps(labels).encode()})
    return folder


@pytest.mark.slow
def test_every_thing_is_rasterised_by_its_label(sources: Path, tmp_path: Path) -> None:
    sprites = make_sprites(sources, tmp_path)
    assert sprites.names == tuple(thing.name for thing in THINGS)
    centre = sprites.flat[:, 64, 64]
    assert (centre[:-1] == (255, 0, 0, 255)).all()
    assert centre[-1].tolist() == [0, 0, 255, 255]
    # Cut to what they show, as large as they can be: the upright bar is as high as the picture, half as wide.
    assert (sprites.flat[0, ..., 3] > 128).mean() == pytest.approx(0.5, abs=0.02)
    assert (sprites.ink[0, ..., 3] > 128).mean() == pytest.approx(np.pi / 4, abs=0.02)
    assert sprites.clay[3, 64, 64].tolist() == [0, 255, 0, 255]


@pytest.mark.slow
def test_sprites_are_made_once(sources: Path, tmp_path: Path) -> None:
    first = make_sprites(sources, tmp_path)
    for archive in sources.iterdir():
        archive.unlink()
    assert np.array_equal(make_sprites(sources, tmp_path).flat, first.flat)


def test_an_archive_with_another_hash_is_refused_by_name(sources: Path) -> None:
    with pytest.raises(
        RuntimeError, match=rf"{FLAT.package} {FLAT.version} has {FLAT.sha256}: delete the file"
    ):
        fetch(sources)


def test_every_source_has_a_permissive_licence_and_a_hash() -> None:
    assert {source.licence for source in SOURCES} <= {"MIT", "Apache-2.0"}
    assert all(len(source.sha256) == 64 for source in SOURCES)
    assert len({source.archive for source in SOURCES}) == len(SOURCES)
