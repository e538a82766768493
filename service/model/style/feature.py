"""StyleFeature: what a style is to the engine, its bytes, and how much its first component dominates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from service.model.schedule import Scale
from service.model.style.tokens import StyleTokens


@dataclass(frozen=True, slots=True, eq=False)
class StyleFeature:
    """F at the key step of a style image, or the mean of several, decomposed: a few kilobytes of arrays.

    The tokens say everything; singular values and directions are kept so that no request decomposes again.
    """

    tokens: StyleTokens
    grids: tuple[Scale, ...]  # of the scales up to the key step, on the image tokenizer's grid
    extent: Scale  # the last grid of the schedule, on which features are
    singular_values: NDArray[np.float32]  # [rank], descending
    directions: NDArray[np.float32]  # [rank, channels], the rows of V^T

    @property
    def num_images(self) -> int:
        return self.tokens.num_images

    @property
    def num_channels(self) -> int:
        return self.directions.shape[1]

    @property
    def num_tokens(self) -> int:
        return sum(grid.num_tokens for grid in self.grids)

    def to_bytes(self) -> bytes:
        sides = [side for grid in (self.extent, *self.grids) for side in (grid.height, grid.width)]
        return save(
            {
                "bits": np.frombuffer(self.tokens.packed, np.uint8),
                "num_images": np.array([self.num_images], dtype=np.int32),
                "shape": np.array([self.num_channels, *sides], dtype=np.int32),
                # The library writes memory as it lies: another order would come back scrambled.
                "singular_values": np.ascontiguousarray(self.singular_values),
                "directions": np.ascontiguousarray(self.directions),
            }
        )

    @classmethod
    def from_bytes(cls, blob: bytes) -> StyleFeature:
        """The inverse of `to_bytes`; ValueError when the bytes are damaged."""
        try:
            arrays = load(blob)
            num_channels, *sides = map(int, arrays["shape"])
            extent, *grids = (Scale(h, w) for h, w in zip(sides[::2], sides[1::2], strict=True))
            # Absent in what the first version stored, which was always of one image.
            num_images = int(arrays["num_images"][0]) if "num_images" in arrays else 1
            tokens = StyleTokens(arrays["bits"].tobytes(), num_images)
            values, directions = arrays["singular_values"], arrays["directions"]
        except (SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"these bytes are no style feature: {error}") from error
        if directions.shape != (len(values), num_channels):
            raise ValueError("these bytes are no style feature: its arrays do not fit together")
        return cls(tokens, tuple(grids), extent, values, directions)


def dominance(style: StyleFeature) -> float:
    """The first component's share of the feature's energy, 0 to 1: sigma_0^2 over the sum of sigma_i^2.

    High where one look fills the picture; lower where a picture holds several (a collage, a page of samples).
    """
    energies = style.singular_values.astype(float) ** 2
    return float(energies[0] / energies.sum()) if len(energies) else 0.0
