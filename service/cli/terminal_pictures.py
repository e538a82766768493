"""Pictures in a terminal that can show them: by the protocol of kitty or of iTerm2, or as sixels.

What the terminal can do is taken from its environment variables, else from its reply to the question that any
terminal answers (DA1, "which attributes have you?"). Inside tmux and screen only the reply counts: the
variables are those of the terminal outside.
"""

from __future__ import annotations

import io
import os
import re
import select
import sys
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Protocol = Literal["kitty", "iterm2", "sixel"]
MIN_SIDE, MAX_SIDE = 256, 512  # pixels; smaller pictures are enlarged, larger ones are reduced
KITTY_CHUNK_CHARS = 4096  # the protocol's bound
REPLY_SECONDS = 1.0  # over a slow connection
ASK_ATTRIBUTES = b"\x1b[c"
SIXEL = b"4"  # among the attributes


def show_picture(file: bytes) -> None:
    """Show an image file on stdout; nothing where that is no terminal, or one without pictures."""
    protocol = terminal_protocol()
    if protocol is None:
        return
    picture = _fitted(file)
    write = {"kitty": _kitty, "iterm2": _iterm2, "sixel": sixels}[protocol]
    sys.stdout.flush()
    sys.stdout.buffer.write(write(picture) + b"\n")
    sys.stdout.flush()


@cache
def terminal_protocol() -> Protocol | None:
    """How the terminal of stdout shows pictures; None if it cannot, or does not say so."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    return protocol_of(os.environ) or ("sixel" if _has_sixels() else None)


def protocol_of(environment: Mapping[str, str]) -> Protocol | None:
    """What the variables say of the terminal; None where they say nothing."""
    terminal, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or terminal.startswith(("screen", "tmux")):
        return None
    if terminal in ("xterm-kitty", "xterm-ghostty") or "KITTY_WINDOW_ID" in environment:
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return None


def _has_sixels() -> bool:
    """Asks the terminal. Not when something was typed already, which would be taken for its reply."""
    try:
        import termios
        import tty
    except ImportError:  # Windows
        return False
    if not sys.stdin.isatty():
        return False
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal, termios.TCSANOW)
        if select.select([terminal], [], [], 0)[0]:
            return False
        os.write(sys.stdout.fileno(), ASK_ATTRIBUTES)
        reply = b""
        while not reply.endswith(b"c") and select.select([terminal], [], [], REPLY_SECONDS)[0]:
            reply += os.read(terminal, 64)
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
    attributes = re.search(rb"\x1b\[\?([\d;]*)c", reply)
    return attributes is not None and SIXEL in attributes[1].split(b";")


def _fitted(file: bytes) -> Image:
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        picture = image.convert("RGB")
    side = max(picture.size)
    if side < MIN_SIDE:  # by a whole factor, so that pixels stay sharp
        factor = MIN_SIDE // side
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return picture


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _kitty(picture: Image) -> bytes:
    encoded = b64encode(_png(picture))
    chunks = [encoded[i : i + KITTY_CHUNK_CHARS] for i in range(0, len(encoded), KITTY_CHUNK_CHARS)]
    first, last = b"a=T,f=100,q=2,", len(chunks) - 1
    return b"".join(
        b"\x1b_G%sm=%d;%s\x1b\\" % (first if number == 0 else b"", number < last, chunk)
        for number, chunk in enumerate(chunks)
    )


def _iterm2(picture: Image) -> bytes:
    file = _png(picture)
    return b"\x1b]1337;File=inline=1;size=%d:%s\x07" % (len(file), b64encode(file))


def sixels(picture: Image) -> bytes:
    """In up to 256 colours: band by band of six rows, and in a band colour by colour."""
    import numpy as np

    quantised = picture.quantize(256)
    colours = np.asarray(quantised.getpalette(), np.uint8).reshape(-1, 3)
    indices = np.asarray(quantised)
    parts = [b'\x1bPq"1;1;%d;%d' % picture.size]
    for number, colour in enumerate(colours):  # in percent
        parts.append(b"#%d;2;%d;%d;%d" % (number, *(round(int(level) * 100 / 255) for level in colour)))
    for top in range(0, picture.height, 6):
        band = indices[top : top + 6]
        weights = (1 << np.arange(len(band), dtype=np.uint8))[:, None]
        for number in np.unique(band):
            row = (((band == number) * weights).sum(0) + ord("?")).astype(np.uint8).tobytes()
            packed = re.sub(rb"(.)\1{3,}", lambda run: b"!%d%s" % (len(run[0]), run[1]), row)
            parts.append(b"#%d%s$" % (number, packed))
        parts.append(b"-")
    return b"".join(parts) + b"\x1b\\"
