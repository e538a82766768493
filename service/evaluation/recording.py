"""A backbone that remembers what passed through it, so that the real Generator can be checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.model.block_runner import Block
from service.model.device.transfer import DecodedImages
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Text
from service.model.infinity.backbone import Cache, Infinity
from service.model.infinity.sampling import NoiseStream, draw_noise
from service.model.schedule import Schedule


class Recording(Infinity):
    """An Infinity on another one's weights that keeps logits, bits and features of all steps it runs.

    Its prompts are ready-made text features. `joint_seed` draws the noise of all images of a step from one
    generator in one call, as the reference does for a batch; otherwise each image has its own generator.
    `forced` are the features that the steps start from, whatever the steps before produced.
    """

    logits: list[Tensor]  # of each step: [paths, tokens, 2 bits]
    bits: list[Tensor]  # of each step: [paths, tokens, bits] bool
    inputs: list[Tensor]  # of each step: the accumulated features it started from
    features: list[Tensor]  # of each step: the accumulated features after it, before any blending

    @classmethod
    def of(
        cls,
        infinity: Infinity,
        texts: Mapping[str, Tensor],
        *,
        joint_seed: int | None = None,
        forced: Sequence[Tensor] | None = None,
    ) -> Recording:
        recording = cls.sharing_weights(infinity)
        recording.logits, recording.bits, recording.inputs, recording.features = [], [], [], []
        recording._texts = texts
        recording._joint_seed = joint_seed
        recording._forced = forced
        return recording

    _texts: Mapping[str, Tensor]
    _joint_seed: int | None
    _forced: Sequence[Tensor] | None

    def path_bits(self, path: int, source: int) -> Tensor:
        """All bits of one path, [tokens, bits]; before it forked it was its source."""
        return torch.cat([bits[path if path < len(bits) else source] for bits in self.bits])

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        features = [self._texts[prompt] for prompt in prompts]
        return [Text(feature, len(feature), feature.nbytes) for feature in features]

    def noise(self, seeds: Sequence[int], schedule: Schedule, num_steps: int) -> NoiseStream:
        if self._joint_seed is None:
            return super().noise(seeds, schedule, num_steps)
        num_bits = [scale.num_tokens * self.config.bits_per_token for scale in schedule.scales]
        return _JointNoise(self._joint_seed, len(seeds), num_bits, self.config.bits_per_token)

    def predict(self, cache: Cache, features: Tensor, step: int) -> Tensor:
        if self._forced is not None:
            features = self._forced[step - 1]
        logits = super().predict(cache, features, step)
        self.inputs.append(features)
        self.logits.append(_by_path(logits.flatten(2), cache))
        return logits

    def sample(self, cache: Cache, logits: Tensor, noise: NoiseStream, step: int) -> Tensor:
        codes = super().sample(cache, logits, noise, step)
        planes = F.pixel_unshuffle(codes, self.config.patch)
        self.bits.append(_by_path((planes > 0).flatten(2).transpose(1, 2), cache))
        return codes

    def accumulate(self, cache: Cache, features: Tensor, codes: Tensor, step: int) -> Tensor:
        after = super().accumulate(cache, features, codes, step)
        self.features.append(_by_path(after, cache))
        return after

    def decode(self, features: Tensor) -> DecodedImages:
        """Images are checked from `features`; nothing is decoded here."""
        return DecodedImages(torch.zeros(len(features), 3, 1, 1))


class _JointNoise(NoiseStream):
    """The noise of all images of a step from one generator, as the reference draws it."""

    def __init__(self, seed: int, num_images: int, num_bits_of_steps: Sequence[int], bits: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._drawn = [
            draw_noise(generator, num_images * num_bits).view(num_images, -1, bits, 2)
            for num_bits in num_bits_of_steps
        ]

    def at(self, step: int) -> Tensor:
        return self._drawn[step - 1]


def _by_path(values: Tensor, cache: Cache) -> Tensor:
    """The values of active paths; after the last step, which drops some, each at its path's index again."""
    paths = cache.active.rows.paths
    if paths == tuple(range(len(paths))):
        return values
    placed = values.new_zeros(len(cache.paths), *values.shape[1:])
    placed[list(paths)] = values
    return placed


@dataclass(frozen=True, slots=True)
class Run:
    """Generation that can be repeated: with the same prompts, seeds and styles, on this or another model."""

    name: str
    infinity: Infinity
    texts: Mapping[str, Tensor]
    specs: tuple[ImageSpec, ...]
    is_joint: bool = False  # all images draw from one generator

    def record(self, forced: Sequence[Tensor] | None = None) -> Recording:
        recording = Recording.of(
            self.infinity,
            self.texts,
            joint_seed=self.specs[0].seed if self.is_joint else None,
            forced=forced,
        )
        Generator(recording).generate(self.specs)
        return recording


@contextmanager
def layer_outputs(infinity: Infinity) -> Iterator[dict[str, list[Tensor]]]:
    """Collects, call by call, what layers give while the context lasts, in runs that begin in it.

    Blocks are watched from outside, as compiled ones have no inside.
    """
    seen: dict[str, list[Tensor]] = {
        "pool": [],
        "modulation": [],
        "text_in": [],
        "block_in": [],
        "block_out": [],
    }

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            seen[name].append(output)

        return hook

    run, transformer = infinity._run_block, infinity.transformer

    def watched(block: Block, x: Tensor, *others: Any) -> Tensor:
        out = run(block, x, *others)
        seen["block_in"].append(x)
        seen["block_out"].append(out)
        return out

    modules = {"pool": transformer.pool, "modulation": transformer.modulation, "text_in": transformer.text_in}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    infinity._run_block = watched
    try:
        yield seen
    finally:
        infinity._run_block = run
        for handle in handles:
            handle.remove()
