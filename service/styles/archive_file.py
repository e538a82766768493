"""The file of an archive of styles: a tar of JSON and pictures, which needs no code of ours to be read.

    atelier.json            the format
    sty_.../style.json      ID, tenant, the record as it is stored, the names of the pictures
    sty_.../0.webp          the pictures
    SHA256SUMS              of all of these, for `sha256sum -c`

An archive may come from anywhere. Nothing of it is unpacked to the disk, and it holds plain files of bounded
size alone: anything else is refused at its header.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service import __version__
from service.storage.schema import MAX_PICTURES
from service.styles.record import is_style_id

FORMAT = {"format": "atelier-styles", "version": 1}
HEAD, SUMS = "atelier.json", "SHA256SUMS"
MAX_FILE_BYTES = 16 * 2**20  # a lossless picture of 2048 x 1024 has less, and so has a record
MAX_SUMS_BYTES = 256 * 2**20
_STYLE_FILE = re.compile(r"(sty_[a-z2-7]{26,36})/style\.json")
_NAME = re.compile(r"atelier\.json|SHA256SUMS|sty_[a-z2-7]{26,36}/(style\.json|[0-9]\.[a-z]{3,4})")


class StyleFile(BaseModel):
    """A style.json. In the record, what is JSON in the store is an object here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    tenant: str
    record: dict[str, str | dict[str, Any]]
    pictures: list[str] = Field(max_length=MAX_PICTURES)


class _PlainFile(tarfile.TarInfo):
    """Anything but a file of bounded size is refused where tarfile reads its header."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> _PlainFile:
        found = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not _NAME.fullmatch(found.name):
            raise ValueError(f"it holds {found.name[:80]!r}, which no archive of styles has")
        if found.size > (MAX_SUMS_BYTES if found.name == SUMS else MAX_FILE_BYTES):
            raise ValueError(f"{found.name} has {found.size:,} bytes, more than any style")
        return found


class ArchiveWriter:
    """Adds files to a tar, and at its end their checksums."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._sums: list[str] = []

    def add_style(
        self, style_id: str, tenant: str, fields: Mapping[str, str], pictures: Sequence[bytes]
    ) -> None:
        suffix = fields.get("image_media_type", "").removeprefix("image/")
        names = [f"{number}.{suffix}" for number in range(len(pictures))]
        record = {name: json.loads(text) if _is_json(name) else text for name, text in fields.items()}
        described = StyleFile(id=style_id, tenant=tenant, record=record, pictures=names)
        created = int(fields["created"])
        self.add(f"{style_id}/style.json", _to_json(described.model_dump()), created)
        for name, picture in zip(names, pictures, strict=True):
            self.add(f"{style_id}/{name}", picture, created)

    def add_sums(self) -> None:
        self.add(SUMS, "".join(self._sums).encode())

    def add(self, name: str, content: bytes, modified: int = 0) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(content), modified
        self._tar.addfile(member, io.BytesIO(content))
        self._sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")


@contextmanager
def written_archive(path: Path) -> Iterator[ArchiveWriter]:
    """A file at `path` is replaced once the archive is complete and on the disk; OSError if it cannot be."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                writer = ArchiveWriter(tar)
                writer.add(HEAD, _to_json({**FORMAT, "written_by": f"Atelier {__version__}"}))
                yield writer
                writer.add_sums()
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise


@contextmanager
def opened_archive(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive. A ValueError within becomes one that names the file."""
    try:
        with tarfile.open(path, "r:", tarinfo=_PlainFile) as tar:
            yield tar
    except (tarfile.TarError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be imported: {error}. It must be as `atelier styles export` wrote it."
        ) from error


def check_archive(path: Path) -> int:
    """The number of styles in an archive whose checksums all match; ValueError says what is wrong."""
    found: dict[str, str] = {}
    sums: str | None = None
    with opened_archive(path) as tar:
        for member in tar:
            content = content_of(tar, member)
            if sums is not None or member.name in found:
                raise ValueError(f"{member.name} follows where nothing may follow")
            if member.name == SUMS:
                sums = content.decode("ascii", "replace")
                continue
            if not found:
                _check_head(member.name, content)
            found[member.name] = hashlib.sha256(content).hexdigest()
        if sums is None:
            raise ValueError("its end is missing")
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in sums.splitlines())}
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                raise ValueError(f"{name} does not have the checksum that is in {SUMS}")
    return sum(_STYLE_FILE.fullmatch(name) is not None for name in found)


def style_files(tar: tarfile.TarFile) -> Iterator[StyleFile]:
    """What each style.json says; ValueError for one that is no description of a style."""
    for member in tar.getmembers():
        if _STYLE_FILE.fullmatch(member.name):
            yield _described(content_of(tar, member), member.name)


def content_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "not a plain file"
    return file.read()


def _check_head(name: str, content: bytes) -> None:
    try:
        head = json.loads(content)
        is_ours = name == HEAD and FORMAT.items() <= head.items()
    except (ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"it does not begin with an {HEAD} of version {FORMAT['version']}")


def _described(content: bytes, name: str) -> StyleFile:
    try:
        style = StyleFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the JSON"
        raise ValueError(f"{name} is not a style: {where}: {first['msg']}") from error
    if not is_style_id(style.id, tenant=style.tenant) or name != f"{style.id}/style.json":
        raise ValueError(f"{name} has the ID {style.id[:60]!r}, which is not its own or not its tenant's")
    return style


def _is_json(field: str) -> bool:
    """Whether a field of the record is JSON."""
    return field == "metadata" or field.startswith("reading:")


def _to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
