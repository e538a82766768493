"""The things as pictures without a ground: flat, as lines and modelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SPRITE_SIDE = 128
Sprite = NDArray[np.uint8]  # [128, 128, 4], RGBA


@dataclass(frozen=True, slots=True)
class Sprites:
    """Every thing three times, [things, 128, 128, 4] RGBA each; of `ink` only the alpha has a meaning."""

    names: tuple[str, ...]
    flat: NDArray[np.uint8]
    ink: NDArray[np.uint8]
    clay: NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        flat: Sequence[Image.Image],
        ink: Sequence[Image.Image],
        clay: Sequence[Image.Image],
    ) -> Sprites:
        """From pictures of any size and mode; each is cut to what it shows and centred in a square."""
        return cls(tuple(names), *(np.stack([_squared(each) for each in kind]) for kind in (flat, ink, clay)))

    @staticmethod
    def exist(folder: Path) -> bool:
        return (folder / "sprites.npz").exists()

    @classmethod
    def load(cls, folder: Path) -> Sprites:
        """FileNotFoundError when the folder holds none."""
        with np.load(folder / "sprites.npz") as arrays:
            return cls(tuple(arrays["names"].tolist()), arrays["flat"], arrays["ink"], arrays["clay"])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / "sprites.new.npz"
        np.savez_compressed(
            unfinished, names=np.array(self.names), flat=self.flat, ink=self.ink, clay=self.clay
        )
        unfinished.replace(folder / "sprites.npz")

    def index(self, name: str) -> int:
        """KeyError when there is no such thing."""
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(f"There is no picture of {name!r}: fetch and rasterise again.") from None


def _squared(picture: Image.Image) -> Sprite:
    picture = picture.convert("RGBA")
    # Faint shadows reach far: what is hardly seen must not shrink the thing.
    box = picture.getchannel("A").point(lambda level: 255 if level > 40 else 0).getbbox()
    if box is None:
        raise ValueError("A thing's picture is empty.")
    cut = picture.crop(box)
    scale = SPRITE_SIDE / max(cut.size)
    cut = cut.resize(
        (max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.LANCZOS
    )
    square = Image.new("RGBA", (SPRITE_SIDE, SPRITE_SIDE))
    square.paste(cut, ((SPRITE_SIDE - cut.width) // 2, (SPRITE_SIDE - cut.height) // 2))
    return np.asarray(square)
