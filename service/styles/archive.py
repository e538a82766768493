"""Styles between a store and an archive: for backups, and for moving styles to another store.

They keep their IDs, so what is read from an archive must be what its ID says: each picture is read like an
upload, and the ID is computed from the pictures, the text or the code once more.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import ServiceError, StyleDamaged
from service.media.images import MAX_LONG_SIDE, MAX_SHORT_SIDE, Picture, read_picture
from service.styles.archive_file import (
    MAX_FILE_BYTES,
    StyleFile,
    check_archive,
    content_of,
    opened_archive,
    style_files,
    written_archive,
)
from service.styles.record import Style, from_hash, style_id_of
from service.styles.repository import StyleRepository

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Export:
    num_styles: int
    damaged: tuple[str, ...]  # IDs of styles that were left out


@dataclass(frozen=True, slots=True)
class Import:
    num_new: int
    num_existing: int  # left as they were


async def export_styles(
    repository: StyleRepository, path: Path, on_style: Callable[[], None] = lambda: None
) -> Export:
    """Write all styles of all tenants to an archive, in the order of their creation. A file that is at `path`
    is replaced when the archive is complete. OSError when it cannot be written.
    """
    num_styles, damaged = 0, list[str]()
    with written_archive(path) as archive:
        for tenant, style_id in await _all_ids(repository):
            on_style()
            try:
                stored = await repository.stored(style_id)
            except StyleDamaged:
                damaged.append(style_id)
                continue
            if stored is not None:  # else deleted meanwhile
                archive.add_style(style_id, tenant, *stored)
                num_styles += 1
    return Export(num_styles, tuple(damaged))


async def num_stored(repository: StyleRepository) -> int:
    """Styles in the store."""
    return len(await _all_ids(repository))


async def import_styles(
    repository: StyleRepository, path: Path, on_style: Callable[[], None] = lambda: None
) -> Import:
    """Write the styles of an archive that are not in the store, and those that are damaged there.

    Each is written whole or not at all, so that an import that was interrupted can be run again. ValueError,
    with nothing written, when the archive is damaged; and at a style that is not what its ID says.
    """
    check_archive(path)
    num_new = num_existing = 0
    with opened_archive(path) as tar:
        for style in style_files(tar):
            known, is_intact = await repository.examine(style.id, num_pictures=len(style.pictures))
            if known is not None and is_intact:
                num_existing += 1
            else:
                fields, contents = _verified(style, tar)
                is_new = await repository.restore(
                    style.id, fields, contents, tenant=style.tenant, replace=not is_intact
                )
                num_new, num_existing = num_new + is_new, num_existing + (not is_new)
            on_style()
    return Import(num_new, num_existing)


def _verified(described: StyleFile, tar: tarfile.TarFile) -> tuple[dict[str, str], list[bytes]]:
    """What to store: the fields of the record, and the pictures as this service reads them."""
    fields = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in described.record.items()
    }
    encoded = {name.encode(): value.encode() for name, value in fields.items()}
    try:
        style = from_hash(described.id, encoded, fingerprint="")
        pictures = [_picture(tar, f"{described.id}/{name}") for name in described.pictures]
    except ServiceError as error:
        raise ValueError(
            f"a picture of {described.id} is refused: {error.message.removesuffix('.')}"
        ) from error
    if len(pictures) != (style.num_images if style.source == "images" else 0):
        raise ValueError(f"{described.id} has {len(pictures)} pictures, and its record counts others")
    codes = [value.get("code") for value in described.record.values() if isinstance(value, dict)]
    if described.id not in _possible_ids(style, pictures, codes, described.tenant):
        raise ValueError(f"{described.id} is not the ID of what the style was made from")
    if pictures:
        fields["image_media_type"] = pictures[0].media_type
    return fields, [picture.content for picture in pictures]


def _picture(tar: tarfile.TarFile, name: str) -> Picture:
    try:
        member = tar.getmember(name)
    except KeyError:
        raise ValueError(f"{name} is missing") from None
    bound = MAX_SHORT_SIDE * MAX_LONG_SIDE
    return read_picture(content_of(tar, member), max_bytes=MAX_FILE_BYTES, max_pixels=bound)


def _possible_ids(
    style: Style, pictures: Sequence[Picture], codes: Sequence[Any], tenant: str
) -> Iterator[str]:
    if style.source == "images":
        yield style_id_of([picture.digest for picture in pictures], tenant=tenant)
    elif style.source_text is not None:
        yield style_id_of(text=style.source_text, tenant=tenant)
    else:  # the code that it was made from is the one of its own model's analysis
        yield from (style_id_of(code=str(code), tenant=tenant) for code in codes)


async def _all_ids(repository: StyleRepository) -> list[tuple[str, str]]:
    """Tenant and style ID, by tenant and creation."""
    found: list[tuple[str, str]] = []
    for tenant in await repository.tenants():
        after = None
        while ids := await repository.ids(tenant, after=after, limit=PAGE, order="asc"):
            found += [(tenant, style_id) for style_id in ids]
            after = ids[-1]
    return found
