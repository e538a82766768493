"""Edits on nano: is the picture's object kept, are its edges, and is the result in the reference's style?

Over `structure` and `strength`, and with the component of the style's change along the content taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.evaluation.intervals import Estimate, estimated_mean
from service.evaluation.judge import Judge
from service.evaluation.references import report_references
from service.evaluation.stylisation import Pair, Score, draw_all, score
from service.model.engine.generator import Generator
from service.model.engine.types import ContentPicture, Edit, ImageSpec, Styling, WeightedStyle
from service.model.infinity.backbone import Cache, Infinity

STRUCTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)  # at 0 every structure gives the picture itself
# How much of the change along the content's directions is taken out, and along how many of them.
ETAS = (0.5, 1.0)
NUM_DIRECTIONS = 2
_CONTENTS = 76  # apart from the streams of stylisation.py


@dataclass(frozen=True, slots=True)
class EditSetting:
    structure: float
    strength: float
    eta: float = 0.0

    def __str__(self) -> str:
        eta = f", eta {self.eta:g}" if self.eta else ""
        return f"structure {self.structure:g}, strength {self.strength:g}{eta}"


@dataclass(frozen=True, slots=True, eq=False)
class EditScore:
    """One setting over all pairs."""

    score: Score  # `kept` is of the picture's object, `leaked` of the reference's
    edges: NDArray[np.float64]  # [pairs]: correlation of the image's edges with the picture's

    def estimates(self) -> dict[str, Estimate]:
        found = self.score.estimates()
        return {"edges": estimated_mean(self.edges)} | {
            name: found[name] for name in ("kept", "leaked", "background", "medium", "style", "harmonic")
        }


def edit_pairs(seed: int, num: int) -> tuple[list[Pair], NDArray[np.uint8]]:
    """Pairs of an object and a reference of another, and pictures [pairs, 64, 64, 3] of their objects."""
    rng, references = np.random.default_rng([_CONTENTS, seed]), report_references()
    pairs: list[Pair] = []
    pictures: list[NDArray[np.uint8]] = []
    while len(pairs) < num:
        content, style = (references[index] for index in rng.choice(len(references), 2, replace=False))
        if content.scene.object != style.scene.object:
            number = int(rng.integers(2**32))
            pairs.append(Pair(content.scene.object, style.scene, style.picture, number))
            pictures.append(content.picture)
    return pairs, np.stack(pictures)


def evaluate_edits(
    generator: Generator, judge: Judge, num_pairs: int, seed: int
) -> dict[EditSetting, EditScore]:
    """Structure by strength, and then eta at both ends of structure. Without a prompt."""
    pairs, pictures = edit_pairs(seed, num_pairs)
    settings = [EditSetting(1.0, 0.0)]
    settings += [EditSetting(structure, strength) for structure in STRUCTURES for strength in STRENGTHS]
    settings += [EditSetting(structure, 1.0, eta) for structure in (0.0, 1.0) for eta in ETAS]
    return {
        setting: _scored(judge, draw_edits(generator, pairs, pictures, setting), pairs, pictures)
        for setting in settings
    }


def draw_edits(
    generator: Generator, pairs: Sequence[Pair], pictures: NDArray[np.uint8], setting: EditSetting
) -> NDArray[np.uint8]:
    """Each picture in its pair's style, [pairs, 64, 64, 3]."""
    if setting.eta:
        assert isinstance(generator.backbone, Infinity)
        generator = Generator(Projecting.of(generator.backbone, setting.eta))
    size = generator.default_size
    specs = []
    for pair, picture in zip(pairs, pictures, strict=True):
        style = WeightedStyle(generator.extract_style(pair.picture, size))
        edit = Edit(ContentPicture(picture.tobytes().hex(), picture), setting.structure)
        styling = Styling((style,), strength=setting.strength)
        specs.append(ImageSpec(None, pair.seed, size, styling=styling, edit=edit))
    return draw_all(generator, specs)


def edge_similarity(pictures: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[pictures]: Pearson's correlation of the gradients' magnitudes of [pictures, h, w, 3], in pairs."""

    def edges(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        grey = pixels.astype(float).mean(-1)
        down, right = np.gradient(grey, axis=(1, 2))
        found = np.hypot(down, right).reshape(len(pixels), -1)
        return (found - found.mean(1, keepdims=True)) / (found.std(1, keepdims=True) + 1e-9)

    return np.asarray((edges(pictures) * edges(others)).mean(1))


class Projecting(Infinity):
    """A backbone on the same weights for F + s (I - eta P)(Phi(F_style) - Phi(F)).

    P projects on the leading directions of the content's feature, less its mean over the image.
    """

    eta = 0.0

    @classmethod
    def of(cls, backbone: Infinity, eta: float) -> Projecting:
        projecting = cls.sharing_weights(backbone)
        projecting.eta = eta
        return projecting

    def predict(self, cache: Cache, features: Tensor, step: int) -> Tensor:
        if step == self.key_step + 1:  # the first that sees the blended features
            for path, content in zip(cache.active_paths, cache.content_of_active(), strict=True):
                if path != content:
                    own = features[cache.feature_index(content)]
                    features[cache.feature_index(path)] = own + self._projected(
                        features[cache.feature_index(path)] - own, own
                    )
        return super().predict(cache, features, step)

    def _projected(self, change: Tensor, content: Tensor) -> Tensor:
        """The change [channels, H, W] without a share of it along the content."""
        matrix = content.flatten(1).double()
        centred = matrix - matrix.mean(1, keepdim=True)
        _, vectors = torch.linalg.eigh(centred @ centred.T)  # ascending
        leading = vectors[:, -NUM_DIRECTIONS:]
        flat = change.flatten(1).double()
        return (flat - self.eta * leading @ (leading.T @ flat)).view_as(change).to(change.dtype)


def _scored(
    judge: Judge, drawn: NDArray[np.uint8], pairs: Sequence[Pair], pictures: NDArray[np.uint8]
) -> EditScore:
    return EditScore(score(judge.judge(drawn), drawn, pairs), edge_similarity(drawn, pictures))
