"""Pictures are shown where the terminal says that it can, and nowhere else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.cli.terminal_pictures import Protocol, protocol_of, sixels
from tests.support.cli import on_terminal
from tests.support.pictures import gradient, saved

SHOW = (
    "import sys; from pathlib import Path; from service.cli.terminal_pictures import show_picture; "
    "show_picture(Path(sys.argv[1]).read_bytes()); print('end')"
)


@pytest.fixture
def show(tmp_path: Path) -> list[str]:
    """A command that shows a picture."""
    (tmp_path / "image.png").write_bytes(saved(gradient(64, 64), "PNG"))
    return [sys.executable, "-c", SHOW, str(tmp_path / "image.png")]


@pytest.mark.parametrize(
    ("variables", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-256color", "TMUX": "/tmp/tmux", "LC_TERMINAL": "iTerm2"}, None),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "vscode"}, None),
        ({}, None),
    ],
)
def test_the_variables_name_the_terminal(variables: dict[str, str], protocol: Protocol | None) -> None:
    assert protocol_of(variables) == protocol


@pytest.mark.parametrize(
    ("reply", "is_shown"),
    [(b"\x1b[?62;4;22c", True), (b"\x1b[?62;22c", False), (b"\x1b[?64;1c", False), (b"", False)],
)
def test_sixels_are_written_where_the_terminal_says_that_it_has_them(
    show: list[str], reply: bytes, is_shown: bool
) -> None:
    answered: list[bytes] = []

    def answer(seen: bytes) -> bytes:
        if seen.endswith(b"\x1b[c") and not answered:
            answered.append(reply)
            return reply
        return b""

    status, seen = on_terminal(show, answer, TERM="xterm")
    assert status == 0
    assert answered == [reply]
    assert (b"\x1bPq" in seen) == is_shown
    assert seen.endswith(b"end\r\n")


def test_a_dumb_terminal_is_asked_nothing(show: list[str]) -> None:
    assert on_terminal(show, TERM="dumb") == (0, b"end\r\n")


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 64), (100, 50)])
def test_sixels_hold_the_picture(size: tuple[int, int]) -> None:
    picture = gradient(*size)
    expected = np.asarray(picture.quantize(256).convert("RGB"), np.int16)
    drawn = as_a_terminal_draws(sixels(picture))
    assert drawn.shape == expected.shape
    assert np.abs(drawn - expected).max() <= 2  # colours are in percent


def as_a_terminal_draws(written: bytes) -> NDArray[np.int16]:
    """After the manual of the VT340: colours, repeats, carriage returns and new lines."""
    header = re.match(rb'\x1bPq"1;1;(\d+);(\d+)', written)
    assert header is not None
    assert written.endswith(b"\x1b\\")
    width, height = int(header[1]), int(header[2])
    drawn = np.full((height + 6, width, 3), -1, np.int16)
    colours: dict[int, list[float]] = {}
    x = y = 0
    colour: list[float] = []
    pattern = rb"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|(\$)|(-)"
    for found in re.finditer(pattern, written[header.end() : -2]):
        if found[1]:
            colours[int(found[1])] = [round(int(found[channel]) * 255 / 100) for channel in (2, 3, 4)]
        elif found[5]:
            colour = colours[int(found[5])]
        elif found[9]:
            x = 0
        elif found[10]:
            x, y = 0, y + 6
        else:
            bits, run = (found[7] or found[8])[0] - ord("?"), int(found[6] or 1)
            for bit in range(6):
                if bits >> bit & 1:
                    drawn[y + bit, x : x + run] = colour
            x += run
    assert (drawn[height:] == -1).all()
    return drawn[:height]
