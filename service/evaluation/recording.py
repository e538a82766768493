"""A backbone that records what passes through it, so that the real Generator can be checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from service.model.device.transfer import DecodedImages
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Path, Text
from service.model.infinity.backbone import Infinity
from service.model.infinity.kv_cache import Cache
from service.model.infinity.sampling import draw_noise
from service.model.infinity.transformer import Transformer
from service.model.schedule import Scale, Schedule


class Recording:
    """An Infinity whose prompts are ready-made features, and which keeps logits, bits and features.

    `joint_seed` draws the noise of all images of a step from one generator in one call, as the reference
    does for a batch; otherwise each image has its own generator. `forced` are the features that the steps
    start from, whatever came out of the steps before.
    """

    def __init__(
        self,
        infinity: Infinity,
        texts: Mapping[str, Tensor],
        *,
        joint_seed: int | None = None,
        num_images: int = 1,
        forced: Sequence[Tensor] | None = None,
    ) -> None:
        self.infinity = infinity
        self.name, self.fingerprint = infinity.name, infinity.fingerprint
        self.schedules, self.channels, self.device = infinity.schedules, infinity.channels, infinity.device
        self.guidance, self.alpha, self.key_step = infinity.guidance, infinity.alpha, infinity.key_step
        self.max_text_tokens, self.resident_bytes = infinity.max_text_tokens, infinity.resident_bytes
        self.draws, self.precision = infinity.draws, infinity.precision
        self.qualities, self.mapped_bytes = infinity.qualities, infinity.mapped_bytes
        self.is_compiled = infinity.is_compiled
        self.logits: list[Tensor] = []  # a step: [paths, tokens, 2 bits]
        self.bits: list[Tensor] = []  # a step: [paths, tokens, bits] bool
        self.inputs: list[Tensor] = []  # a step: the accumulated feature it started from
        self.features: list[Tensor] = []  # a step: the accumulated feature after it, before any blending
        self._texts = texts
        self._joint = None if joint_seed is None else torch.Generator().manual_seed(joint_seed)
        self._num_images = num_images
        self._drawn: list[Tensor] = []
        self._forced = forced
        self._paths: Sequence[Path] = ()

    def path_bits(self, path: int, source: int) -> Tensor:
        """All bits of one path, [tokens, bits]; before it forked it was its source."""
        return torch.cat([bit[path if path < len(bit) else source] for bit in self.bits])

    def batch_bytes(self, schedule: Schedule, num_images: int) -> int:
        return self.infinity.batch_bytes(schedule, num_images)

    def feature_grids(self, schedule: Schedule) -> tuple[Scale, ...]:
        return self.infinity.feature_grids(schedule)

    def encode_text(self, prompt: str) -> Text:
        return Text(self._texts[prompt])

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        return [self.encode_text(prompt) for prompt in prompts]

    def begin(
        self, paths: Sequence[Path], schedule: Schedule, *, content_end_step: int | None = None
    ) -> Cache:
        self._paths = paths
        return self.infinity.begin(paths, schedule, content_end_step=content_end_step)

    def fork(self, cache: Cache) -> None:
        self.infinity.fork(cache)

    def predict(self, cache: Cache, step: int, feature: Tensor, chosen: Tensor | None = None) -> Tensor:
        if self._forced is not None:
            feature = self._forced[step - 1]
        logits = self.infinity.predict(cache, step, feature, chosen)
        self.inputs.append(feature)
        self.logits.append(self._by_path(logits.flatten(2), cache.schedule, step))
        return logits

    def noise(self, generator: torch.Generator, schedule: Schedule, step: int) -> Tensor:
        if self._joint is None:
            return self.infinity.noise(generator, schedule, step)
        if not self._drawn:
            tokens = schedule.scales[step - 1].num_tokens
            num_bits = tokens * self.infinity.config.bits_per_token
            joint = draw_noise(self._joint, self._num_images * num_bits)
            self._drawn = list(joint.view(self._num_images, tokens, -1, 2))
        return self._drawn.pop(0)

    def detail(self, feature: Tensor, schedule: Schedule, step: int) -> Tensor:
        return self.infinity.detail(feature, schedule, step)

    def sample(
        self, logits: Tensor, noise: Tensor, schedule: Schedule, step: int, chosen: Tensor | None = None
    ) -> Tensor:
        codes = self.infinity.sample(logits, noise, schedule, step, chosen)
        planes = F.pixel_unshuffle(codes, self.infinity.config.patch)
        self.bits.append(self._by_path((planes > 0).flatten(2).transpose(1, 2), schedule, step))
        return codes

    def accumulate(self, feature: Tensor, codes: Tensor, schedule: Schedule, step: int) -> Tensor:
        after = self.infinity.accumulate(feature, codes, schedule, step)
        self.features.append(self._by_path(after, schedule, step))
        return after

    def _by_path(self, values: Tensor, schedule: Schedule, step: int) -> Tensor:
        """After the last step only drawn paths are left: each at its path's index, zeros at the others."""
        drawn = [index for index, path in enumerate(self._paths) if path.drawn]
        if step < len(schedule.scales) or len(drawn) == len(self._paths):
            return values
        by_path = values.new_zeros(len(self._paths), *values.shape[1:])
        by_path[drawn] = values
        return by_path

    def encode_image(self, image: NDArray[np.uint8], schedule: Schedule, num_steps: int) -> NDArray[np.uint8]:
        return self.infinity.encode_image(image, schedule, num_steps)

    def decode(self, feature: Tensor) -> DecodedImages:
        """Images are checked from `features`; nothing is decoded here."""
        return DecodedImages(torch.zeros(len(feature), 3, 1, 1))


@dataclass(frozen=True, slots=True)
class Run:
    """Generation that can be repeated: with the same prompts, seeds and styles, on this or another model."""

    name: str
    infinity: Infinity
    texts: Mapping[str, Tensor]
    specs: tuple[ImageSpec, ...]
    is_joint: bool = False  # all images draw from one generator

    def record(self, forced: Sequence[Tensor] | None = None) -> Recording:
        recording = Recording(
            self.infinity,
            self.texts,
            joint_seed=self.specs[0].seed if self.is_joint else None,
            num_images=len(self.specs),
            forced=forced,
        )
        Generator(recording).generate(self.specs)
        return recording


@contextmanager
def layer_outputs(transformer: Transformer) -> Iterator[dict[str, list[Tensor]]]:
    """Collects, call by call, what the layers of a transformer give while the context lasts."""
    seen: dict[str, list[Tensor]] = {
        "pool": [],
        "modulation": [],
        "text_in": [],
        "block_in": [],
        "block_out": [],
    }

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if name == "block_out":
                seen["block_in"].append(inputs[0])
            seen[name].append(output)

        return hook

    modules = {"pool": transformer.pool, "modulation": transformer.modulation, "text_in": transformer.text_in}
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    handles += [block.register_forward_hook(keep("block_out")) for block in transformer.blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
