"""The judge: says what a picture of the bundled model's world shows.

A small convolutional classifier of object, colour, background and medium, trained on renders (see
`service.evaluation.train_judge`) and never on anything that the model under judgement has drawn or encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from service.model.checkpoints.loader import load_into, read_tensors
from service.training.scene import BACKGROUNDS, COLOURS, MEDIA, OBJECTS, Scene, oklab

WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "colour": COLOURS,
    "background": BACKGROUNDS,
    "medium": MEDIA,
}
NUM_LIKELY = 5
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """What each of a batch of pictures shows, as words. A colour is always named, the nearest if need be."""

    scenes: tuple[Scene, ...]
    likely: tuple[tuple[str, ...], ...]  # the NUM_LIKELY objects of each picture, the likeliest first

    def agrees(self, attribute: str, expected: Sequence[Scene]) -> NDArray[np.bool_]:
        """[pictures]: whether the attribute is the expected scene's.

        A thing in its own colours has none to agree with: leave the colour of those out (`is_coloured`).
        """
        pairs = zip(self.scenes, expected, strict=True)
        return np.array([getattr(seen, attribute) == getattr(scene, attribute) for seen, scene in pairs])

    def lists(self, expected: Sequence[Scene]) -> NDArray[np.bool_]:
        """[pictures]: whether the expected scene's object is among the likely ones."""
        return np.array([scene.object in names for names, scene in zip(self.likely, expected, strict=True)])


def is_coloured(scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """[scenes]: whether the object has a colour that a caption names."""
    return np.array([scene.colour != "" for scene in scenes])


class Judge(nn.Module):
    """Pictures [pictures, 3, 64, 64] in [-1, 1] to one set of logits an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _layer(3, 48, kernel=5, stride=2),
            _layer(48, 96, stride=2),
            _layer(96, 96),
            _layer(96, 192, stride=2),
            _layer(192, 192),
            _layer(192, 192, stride=2),
            _layer(192, 192),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(384, len(words)) for name, words in ATTRIBUTES.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.layers(images)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.inference_mode()
    def judge(self, pictures: NDArray[np.uint8]) -> Verdict:
        """Pictures [pictures, 64, 64, 3] RGB."""
        scenes: list[Scene] = []
        likely: list[tuple[str, ...]] = []
        for start in range(0, len(pictures), _BATCH):
            batch = torch.from_numpy(np.array(pictures[start : start + _BATCH]))
            logits = self(batch.permute(0, 3, 1, 2).float() / 127.5 - 1)
            chosen = [logits[name].argmax(1).tolist() for name in ATTRIBUTES]
            for indices in zip(*chosen, strict=True):
                words = zip(ATTRIBUTES.values(), indices, strict=True)
                scenes.append(Scene(*(options[index] for options, index in words)))
            for best in logits["object"].topk(NUM_LIKELY).indices.tolist():
                likely.append(tuple(OBJECTS[index] for index in best))
        return Verdict(tuple(scenes), tuple(likely))


def load_judge(file: Path = WEIGHTS) -> Judge:
    """The judge that ships; ValueError names the file when it is damaged."""
    judge = Judge().requires_grad_(False).eval()
    load_into(judge, read_tensors(file), source=str(file))
    return judge


def visible(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[pictures]: how far the object stands out from its background, in Oklab; 0 if there is nothing to see.

    Patterns repeat every 8 pixels, so means over 8 x 8 pixels, 4 pixels apart, show colours without pattern.
    The background is the median of the outermost of them, the object the 12 that differ most from it.
    """
    blocks = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).double() / 255
    means = F.avg_pool2d(blocks, 8, stride=4).permute(0, 2, 3, 1).numpy()  # [pictures, 15, 15, 3]
    lab = oklab(means)
    edge = np.ones(lab.shape[1:3], dtype=bool)
    edge[1:-1, 1:-1] = False
    ground = np.median(lab[:, edge], axis=1)
    distance = np.linalg.norm(lab - ground[:, None, None], axis=-1).reshape(len(lab), -1)
    return np.asarray(np.sort(distance, axis=1)[:, -12:].mean(axis=1))


def _layer(channels_in: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.GroupNorm(8, channels),
        nn.SiLU(),
    )
