"""Bytes in the store with a checksum that shows damage."""

from __future__ import annotations

import struct
import zlib

PICTURE, FEATURE, JOB_REQUEST, JOB_RESULT = (
    b"AtP1",
    b"AtF1",
    b"AtJ1",
    b"AtR1",
)  # kind and version of the format
_HEADER = struct.Struct(">4sI")  # kind, CRC-32 of the content


def add_checksum(kind: bytes, content: bytes) -> bytes:
    return _HEADER.pack(kind, zlib.crc32(content)) + content


def verify_checksum(kind: bytes, stored: bytes) -> bytes:
    """The content; ValueError when it is truncated, changed, or of another kind or version."""
    if len(stored) < _HEADER.size:
        raise ValueError(f"{len(stored)} bytes are too few")
    found, checksum = _HEADER.unpack_from(stored)
    content = stored[_HEADER.size :]
    if found != kind:
        raise ValueError(f"it begins with {found!r}, not {kind!r}")
    if checksum != zlib.crc32(content):
        raise ValueError("its checksum does not match")
    return content
