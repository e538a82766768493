"""Bytes in the store that can tell when they are damaged."""

from __future__ import annotations

import struct
import zlib

PICTURE, FEATURE = b"AtP1", b"AtF1"  # what it is, and the version of its form
_HEADER = struct.Struct(">4sI")  # kind, CRC-32 of the content


def add_checksum(kind: bytes, content: bytes) -> bytes:
    return _HEADER.pack(kind, zlib.crc32(content)) + content


def verify_checksum(kind: bytes, sealed: bytes) -> bytes:
    """The content; ValueError when it is cut, changed, of another kind or of another version."""
    if len(sealed) < _HEADER.size:
        raise ValueError(f"{len(sealed)} bytes are too few")
    found, checksum = _HEADER.unpack_from(sealed)
    content = sealed[_HEADER.size :]
    if found != kind:
        raise ValueError(f"it begins with {found!r}, not {kind!r}")
    if checksum != zlib.crc32(content):
        raise ValueError("its checksum does not match")
    return content
