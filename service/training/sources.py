"""Where nano's things come from: four npm packages, by version and hash, fetched into a run's folder."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

from service.model.nano.words import THINGS
from service.training.sprites import SPRITE_SIDE, Sprites


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A package as npm names it, and the SHA-256 of its archive."""

    package: str
    version: str
    licence: str
    gives: str
    sha256: str

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


FLAT = Source(
    package="@iconify-json/fluent-emoji-flat",
    version="1.2.6",
    licence="MIT",
    gives="flat pictures",
    sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
)
INK = Source(
    package="@iconify-json/fluent-emoji-high-contrast",
    version="1.2.6",
    licence="MIT",
    gives="line drawings",
    sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
)
CLAY = Source(
    package="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    licence="MIT",
    gives="modelled pictures",
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
NAMES = Source(
    package="emojibase-data",
    version="17.0.0",
    licence="MIT",
    gives="names",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
SOURCES: tuple[Source, ...] = (FLAT, INK, CLAY, NAMES)


def fetch(folder: Path) -> None:
    """Every archive that `folder` lacks, by `npm pack`. RuntimeError when npm fails or a hash differs."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        archive = folder / source.archive
        if not archive.exists():
            _pack(source, folder)
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != source.sha256:
            raise RuntimeError(
                f"{archive} has the SHA-256 {found}, but {source.package} {source.version} has "
                f"{source.sha256}: delete the file and fetch it again."
            )


def _pack(source: Source, folder: Path) -> None:
    command = ["npm", "pack", "--silent", f"{source.package}@{source.version}"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603
    except FileNotFoundError:
        raise RuntimeError(
            f"npm, which fetches pictures, is not installed: install it or put {source.archive} in {folder}."
        ) from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"`{' '.join(command)}` failed: {error.stderr.strip()}") from None


def make_sprites(sources: Path, folder: Path) -> Sprites:
    """Rasterise every thing of `words.THINGS`, unless `folder` holds them already."""
    if not Sprites.exist(folder):
        flat, ink, clay = (
            _Icons(sources / FLAT.archive),
            _Icons(sources / INK.archive),
            _Clay(sources / CLAY.archive),
        )
        codes = _codes(sources / NAMES.archive)
        labels = [codes[thing.label] for thing in THINGS]
        Sprites.of(
            [thing.name for thing in THINGS],
            [flat.picture(code) for code in labels],
            [ink.picture(code) for code in labels],
            [clay.picture(code) for code in labels],
        ).save(folder)
    return Sprites.load(folder)


def _codes(archive: Path) -> dict[str, str]:
    """The code points of an emoji's label, as its files are named, without variation selectors."""
    (read,) = _read(archive, "package/en/data.json")
    return {emoji["label"]: _plain(emoji["hexcode"]) for emoji in json.loads(read)}


def _plain(code: str) -> str:
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _read(archive: Path, *members: str) -> list[bytes]:
    with tarfile.open(archive) as tar:
        files = [tar.extractfile(member) for member in members]
        return [file.read() for file in files if file is not None]


class _Icons:
    """An iconify set of SVG drawings."""

    def __init__(self, archive: Path) -> None:
        icons, characters = (
            json.loads(read) for read in _read(archive, "package/icons.json", "package/chars.json")
        )
        self._icons: dict[str, Any] = icons["icons"]
        self._side: int = icons["width"]
        self._names: dict[str, str] = {_plain(code): name for code, name in characters.items()}

    def picture(self, code: str) -> Image.Image:
        body = self._icons[self._names[code]]["body"]
        box = f"0 0 {self._side} {self._side}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{body}</svg>'
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=SPRITE_SIDE, height=SPRITE_SIDE, skip_system_fonts=True
        )
        return Image.open(io.BytesIO(bytes(png)))


class _Clay:
    """Pictures named by their code points."""

    def __init__(self, archive: Path) -> None:
        with tarfile.open(archive) as tar:
            members = [name for name in tar.getnames() if name.endswith(".webp")]
            self._pictures = {
                _plain(Path(name).stem): file.read() for name in members if (file := tar.extractfile(name))
            }

    def picture(self, code: str) -> Image.Image:
        return Image.open(io.BytesIO(self._pictures[code]))
