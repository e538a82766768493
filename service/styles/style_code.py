"""The style code: a whole style as a short text, which can be copied from one service to another.

    sc1_ + base64url( fingerprint, 8 bytes | number of pictures, 1 byte | bits, packed | CRC-32, 4 bytes )

No padding. The fingerprint is that of the model that extracted the bits, at its default size. The 21 x 32
bits that Infinity-2B extracts from one picture are 84 bytes: 130 characters in all, 112 of them the bits. A
code shows as much of its pictures as a grid of four by four colours does, and nothing else.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import InvalidRequest
from service.model.style.tokens import StyleTokens

PREFIX = "sc1_"
MAX_CODE_CHARS = 4096  # eight bit planes of 60 tokens x 32 channels, and more
_ANY_VERSION = re.compile(r"sc\d+_")
_HEADER, _CHECKSUM = struct.Struct(">8sB"), struct.Struct(">I")
_INSTEAD = "Copy the code again, whole, or upload the picture to get an ID."


def is_code(text: str) -> bool:
    """Whether `text` begins like a style code, of this version or another; a style ID does not."""
    return _ANY_VERSION.match(text) is not None


@dataclass(frozen=True, slots=True)
class StyleCodec:
    """Encodes and decodes the style codes of one model."""

    model: str
    fingerprint: str  # 16 hex characters
    check_tokens: Callable[[StyleTokens], None]  # ValueError unless they are tokens of the model

    def write(self, tokens: StyleTokens) -> str:
        content = _HEADER.pack(bytes.fromhex(self.fingerprint), tokens.num_images) + tokens.packed
        decoded = content + _CHECKSUM.pack(zlib.crc32(content))
        return PREFIX + base64.urlsafe_b64encode(decoded).decode().rstrip("=")

    def read(self, code: str, *, param: str | None = None) -> StyleTokens:
        """The inverse of `write`; InvalidRequest says why when the code is damaged or another model's."""
        fingerprint, num_images, packed = _decode(code, param)
        if fingerprint != self.fingerprint:
            raise InvalidRequest(
                f"This style code is of a model with the fingerprint {fingerprint}; {self.model}, which this "
                f"service draws with, has {self.fingerprint}. Use it where its model is served, or upload "
                "the picture here.",
                param=param,
                code="foreign_style_code",
            )
        tokens = StyleTokens(packed, num_images)
        try:
            self.check_tokens(tokens)
        except ValueError as error:  # not damaged by accident: its checksum matches
            raise _damaged("its bits do not fit its model", param) from error
        return tokens


def _decode(code: str, param: str | None) -> tuple[str, int, bytes]:
    """Fingerprint, number of pictures and packed tokens of an unchanged code."""
    if not code.startswith(PREFIX):
        if is_code(code):
            raise _damaged(f"it is not of the version that begins with {PREFIX}", param)
        raise _damaged(f"it does not begin with {PREFIX}", param)
    text = code.removeprefix(PREFIX)
    if re.fullmatch(r"[A-Za-z0-9_-]*", text) is None:
        raise _damaged("it holds characters that no code has", param)
    if len(text) > MAX_CODE_CHARS or len(text) % 4 == 1:
        raise _damaged(f"{len(code)} characters are not the length of a code", param)
    decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(decoded) < _HEADER.size + _CHECKSUM.size:
        raise _damaged("it is cut off", param)
    content, checksum = decoded[: -_CHECKSUM.size], decoded[-_CHECKSUM.size :]
    # The last character carries bits beyond the last byte, which decoding ignores: they count as well.
    is_as_written = base64.urlsafe_b64encode(decoded).decode().rstrip("=") == text
    if not is_as_written or _CHECKSUM.pack(zlib.crc32(content)) != checksum:
        raise _damaged("its checksum does not match, so characters were changed or lost", param)
    fingerprint, num_images = _HEADER.unpack_from(content)
    return fingerprint.hex(), num_images, content[_HEADER.size :]


def _damaged(reason: str, param: str | None) -> InvalidRequest:
    return InvalidRequest(
        f"This is no sound style code: {reason}. {_INSTEAD}", param=param, code="invalid_style_code"
    )
