"""Style codes: short, exact, sure of their model, and refused whenever a character is not as written."""

from __future__ import annotations

import base64
import string
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.model.infinity.style import combine, pack
from service.model.style.tokens import StyleTokens
from service.styles.style_code import StyleCodec, is_code


def codec(model: str, fingerprint: str, num_tokens: int, num_channels: int) -> StyleCodec:
    """The codec of an Infinity whose styles have this shape."""

    def check_tokens(tokens: StyleTokens) -> None:
        combine([tokens], num_tokens, num_channels)

    return StyleCodec(model, fingerprint, check_tokens)


SHAPE = (21, 32)
CODES = codec("infinity-2b", "0123456789abcdef", *SHAPE)
ALPHABET = string.ascii_letters + string.digits + "-_"
BITS = st.builds(
    lambda seed, num_images: pack(
        np.random.default_rng(seed).integers(0, num_images + 1, SHAPE, dtype=np.uint8), num_images
    ),
    st.integers(0, 2**31),
    st.integers(1, 12),
)


def code_of(content: bytes) -> str:
    """A code whose checksum is right, whatever it holds."""
    whole = content + zlib.crc32(content).to_bytes(4, "big")
    return "sc1_" + base64.urlsafe_b64encode(whole).decode().rstrip("=")


@given(BITS)
def test_a_code_is_the_bits_themselves(bits: StyleTokens) -> None:
    code = CODES.write(bits)
    assert is_code(code)
    assert CODES.read(code) == bits


def test_one_pictures_code_takes_112_characters_for_its_bits_and_18_around_them() -> None:
    code = CODES.write(pack(np.ones(SHAPE, np.uint8)))
    assert len(code.removeprefix("sc1_")) == 112 + 18
    assert set(code) <= set(ALPHABET)
    ten = pack(np.full(SHAPE, 10, np.uint8), 10)
    assert len(CODES.write(ten)) < 500


@given(BITS, st.data())
def test_any_changed_character_is_refused(bits: StyleTokens, draw: st.DataObject) -> None:
    code = CODES.write(bits)
    at = draw.draw(st.integers(0, len(code) - 1))
    other = draw.draw(st.sampled_from(ALPHABET + " \n=.%é\x00").filter(lambda char: char != code[at]))
    with pytest.raises(InvalidRequest) as caught:
        CODES.read(code[:at] + other + code[at + 1 :], param="style")
    assert caught.value.code == "invalid_style_code"
    assert caught.value.param == "style"


def test_every_other_last_character_is_refused() -> None:
    """Where bits beyond the last byte could hide."""
    for channels in (30, 31, 32):
        codes = codec("x", "0123456789abcdef", 8, channels)
        code = codes.write(pack(np.ones((8, channels), np.uint8)))
        for other in set(ALPHABET) - {code[-1]}:
            with pytest.raises(InvalidRequest, match="no sound style code"):
                codes.read(code[:-1] + other)


@given(BITS, st.data())
def test_a_code_that_is_cut_or_has_something_added_is_refused(bits: StyleTokens, draw: st.DataObject) -> None:
    code = CODES.write(bits)
    cut = draw.draw(st.integers(0, len(code) - 1))
    added = draw.draw(st.text(ALPHABET + " ", min_size=1, max_size=8))
    for damaged in (code[:cut], code + added, added + code, code.lower(), code + "=="):
        if damaged != code:
            with pytest.raises(InvalidRequest):
                CODES.read(damaged)


@given(st.one_of(st.text(), st.text(ALPHABET).map("sc1_".__add__), st.binary(max_size=200).map(code_of)))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    is_code(text)
    with pytest.raises(InvalidRequest, match="style code"):
        CODES.read(text)


@given(BITS, st.binary(min_size=8, max_size=8).filter(lambda other: other.hex() != CODES.fingerprint))
def test_another_models_code_is_refused_and_both_models_are_named(bits: StyleTokens, other: bytes) -> None:
    foreign = codec("infinity-8b", other.hex(), 84, 14)
    code = codec("infinity-8b", other.hex(), *SHAPE).write(bits)
    with pytest.raises(InvalidRequest, match=f"{other.hex()}.*infinity-2b") as caught:
        CODES.read(code)
    assert caught.value.code == "foreign_style_code"
    if other != bytes.fromhex(CODES.fingerprint):
        assert foreign.fingerprint in caught.value.message


@pytest.mark.parametrize("num_images", [0, 2, 255])
def test_bits_that_do_not_fit_the_model_are_refused_though_their_checksum_is_right(num_images: int) -> None:
    content = bytes.fromhex(CODES.fingerprint) + bytes([num_images]) + bytes(84)
    with pytest.raises(InvalidRequest, match="do not fit"):
        CODES.read(code_of(content))


def test_counts_above_the_number_of_pictures_are_refused() -> None:
    content = bytes.fromhex(CODES.fingerprint) + bytes([2]) + b"\xff" * 168
    with pytest.raises(InvalidRequest, match="do not fit"):
        CODES.read(code_of(content))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sc2_AAAA", "version"),
        ("sty_aaaa", "begin"),
        ("sc1_", "cut off"),
        ("sc1_" + "A" * 12, "cut off"),
        ("sc1_AA=A", "characters that no code has"),
        ("sc1_" + "A" * 5, "length"),
        ("sc1_" + "A" * 8192, "length"),
        ("sc1_" + "A" * 174, "checksum"),
    ],
)
def test_a_refusal_says_why(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        CODES.read(text)
