"""Singular spectra: how much of each style's feature its components hold, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.paper.protocol import Protocol
from service.model.engine.generator import Generator
from service.model.schedule import Size
from service.model.style.feature import dominance


@dataclass(frozen=True, slots=True, eq=False)
class Spectra:
    """Of the style images, by step: singular values, the largest of each being 1."""

    values: dict[int, NDArray[np.float64]]  # [styles, rank]; a style of lower rank is filled up with zeros
    dominance: dict[int, NDArray[np.float64]]  # [styles]: the first component's share of the energy


def spectra_of(generator: Generator, protocol: Protocol, size: Size) -> Spectra:
    """Of every step but the last, at which the feature is the picture."""
    values: dict[int, NDArray[np.float64]] = {}
    shares: dict[int, NDArray[np.float64]] = {}
    for step in range(1, generator.num_steps(size)):
        features = [generator.extract_style(style.picture, size, step) for style in protocol.styles]
        rank = max(len(feature.singular_values) for feature in features)
        values[step] = np.stack(
            [
                np.pad(
                    feature.singular_values / feature.singular_values[0],
                    (0, rank - len(feature.singular_values)),
                )
                for feature in features
            ]
        ).astype(float)
        shares[step] = np.array([dominance(feature) for feature in features])
    return Spectra(values, shares)
