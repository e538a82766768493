"""Amounts of bytes as people read them."""

from __future__ import annotations


def in_bytes(number: int) -> str:
    """`9.45 GB`, in powers of ten as the hub counts."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} bytes"
