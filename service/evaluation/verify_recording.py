"""Parity of a released checkpoint with a recording of upstream's own code, made on any machine.

`docs/record_infinity.py` records upstream. A recording holds one picture, one prompt, and what they became:
the picture's bits, the text's features, and the bits of the image that greedy sampling draws (the more likely
value of each bit, so that no random stream matters). Ours are computed step by step from the recorded bits: a
bit that rounding decides otherwise does not change the steps after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from service.evaluation.checks import Check
from service.evaluation.verify_half import MIN_FORCED
from service.model.backbone import AnyBackbone
from service.model.device.transfer import DecodedImages, pixels_of
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Text
from service.model.infinity.backbone import Cache, Infinity
from service.model.infinity.sampling import NoiseStream
from service.model.infinity.tokenizer import codes_from_bits, quantise
from service.model.schedule import Schedule, Size
from service.model.style.resize import resize

PROMPT = "a red star on a blue background"
# Shares of differing bits. A transformer in bf16 stays within MIN_FORCED of one in fp32; TF32, which upstream
# leaves on, flips 0.2 % of a picture's bits. Text features are compared with their largest value.
TOLERANCES = {"text": 2e-2, "style_bits": 5e-3, "bits": 1 - MIN_FORCED}
_METADATA = ("made_by", "prompt", "guidance", "sha256")


@dataclass(frozen=True, slots=True)
class ModelRecording:
    """Bits are uint8 on the image tokenizer's grid, [tokens of all scales, channels], row by row."""

    made_by: str
    prompt: str
    guidance: float
    style_image: NDArray[np.uint8]  # [height, width, 3], of the size that is drawn
    style_bits: NDArray[np.uint8]
    text: NDArray[np.float32]  # [tokens, channels]
    bits: NDArray[np.uint8]

    @property
    def size(self) -> Size:
        height, width, _ = self.style_image.shape
        return Size(width, height)

    def arrays(self) -> dict[str, NDArray[np.uint8] | NDArray[np.float32]]:
        names = ("bits", "style_bits", "style_image", "text")
        return {name: np.ascontiguousarray(getattr(self, name)) for name in names}


def digest(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """Over the names and bytes in order of the names, as the script in the documentation computes it."""
    found = sha256()
    for name in sorted(arrays):
        found.update(name.encode() + arrays[name].tobytes())
    return found.hexdigest()


def write_recording(file: Path, recording: ModelRecording) -> None:
    arrays = recording.arrays()
    metadata = {name: str(getattr(recording, name)) for name in _METADATA if name != "sha256"}
    save_file(arrays, file, metadata | {"sha256": digest(arrays)})


def read_recording(file: Path) -> ModelRecording:
    """ValueError with a sentence when it is none, or when a number of it was changed since."""
    try:
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a mapping
        made_by, prompt, guidance, recorded = (metadata[name] for name in _METADATA)
        recording = ModelRecording(made_by, prompt, float(guidance), **arrays)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no recording of `atelier verify --record`: {error}") from error
    if digest(arrays) != recorded:
        raise ValueError(
            f"{file} was changed after it was recorded: its numbers have the SHA-256 {digest(arrays)}, and "
            f"it says {recorded}. Record it again."
        )
    return recording


def use_fused_kernels(generator: Generator) -> None:
    """Those that GPUs always use."""
    _infinity(generator.backbone).is_fused = True


@torch.inference_mode()
def record(generator: Generator, made_by: str, prompt: str = PROMPT) -> ModelRecording:
    """What this machine makes of a checkpoint. ValueError for another backbone than Infinity."""
    infinity, size = _infinity(generator.backbone), generator.default_size
    image = _picture(size)
    replay = _Replay.of(infinity)
    Generator(replay).generate([ImageSpec(prompt, 0, size)])
    return ModelRecording(
        made_by,
        prompt,
        infinity.guidance,
        image,
        _style_bits(infinity, image, size),
        _text_features(infinity, prompt),
        np.concatenate(replay.bits),
    )


@torch.inference_mode()
def compare_with(generator: Generator, recording: ModelRecording) -> list[Check]:
    """ValueError when the recording is not of this model's shapes, or of another backbone than Infinity."""
    infinity, size = _infinity(generator.backbone), recording.size
    if size not in infinity.schedules:
        raise ValueError(f"The recording is of {size}, which {infinity.name} does not draw")
    style_bits = _style_bits(infinity, recording.style_image, size)
    for name, theirs in (("style_bits", recording.style_bits), ("bits", recording.bits)):
        if theirs.shape != style_bits.shape:
            raise ValueError(
                f"The recording's {name} are {theirs.shape}, and {infinity.name}'s {style_bits.shape}"
            )
    replay = _Replay.of(infinity, recording)
    Generator(replay).generate([ImageSpec(recording.prompt, 0, size, guidance=recording.guidance)])
    differences = {
        "text": _relative_difference(_text_features(infinity, recording.prompt), recording.text),
        "style_bits": float((style_bits != recording.style_bits).mean()),
        "bits": float((np.concatenate(replay.bits) != recording.bits).mean()),
    }
    return [Check(name, differences[name], tolerance) for name, tolerance in TOLERANCES.items()]


class _Replay(Infinity):
    """An Infinity that takes the more likely value of each bit, and keeps them all.

    With a recording, its text and the features that each step starts from are the recorded ones.
    """

    bits: list[NDArray[np.uint8]]  # of each step: [tokens, channels]
    _recording: ModelRecording | None
    _forced: Sequence[Tensor]

    @classmethod
    def of(cls, infinity: Infinity, recording: ModelRecording | None = None) -> _Replay:
        greedy = replace(infinity.config.sampling, top_k=1, top_p=0.0)
        replay = cls.sharing_weights(infinity, replace(infinity.config, sampling=greedy))
        replay.bits, replay._recording, replay._forced = [], recording, ()
        if recording is not None:
            replay._forced = _accumulated(replay, recording, replay.schedules[recording.size])
        return replay

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        if self._recording is None:
            return super().encode_texts(prompts)
        text = torch.from_numpy(self._recording.text).to(self.device)
        return [Text(text, len(text), text.nbytes) for _ in prompts]

    def predict(self, cache: Cache, features: Tensor, step: int) -> Tensor:
        return super().predict(cache, self._forced[step - 1] if self._forced else features, step)

    def sample(self, cache: Cache, logits: Tensor, noise: NoiseStream, step: int) -> Tensor:
        codes = super().sample(cache, logits, noise, step)
        self.bits.append(_flat(codes > 0))
        return codes

    def decode(self, features: Tensor) -> DecodedImages:
        """Images are compared as bits; nothing is decoded."""
        return DecodedImages(torch.zeros(len(features), 3, 1, 1))


def _accumulated(infinity: Infinity, recording: ModelRecording, schedule: Schedule) -> list[Tensor]:
    """The features [1, channels, H, W] that each step starts from, by the recorded bits."""
    grids, start = infinity.feature_grids(schedule), 0
    features = torch.zeros(
        1, infinity.num_channels, grids[-1].height, grids[-1].width, device=infinity.device
    )
    found = []
    for grid in grids:
        found.append(features)
        bits = torch.from_numpy(recording.bits[start : start + grid.num_tokens]).to(infinity.device)
        planes = bits.T.unflatten(1, (grid.height, grid.width))[None].float()
        features = features + resize(codes_from_bits(planes), grids[-1])
        start += grid.num_tokens
    return found


def _style_bits(infinity: Infinity, image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    h = infinity.tokenizer.encode(pixels_of(image, size, infinity.device))
    grids = infinity.feature_grids(infinity.schedules[size])
    return np.concatenate([_flat(bit > 0) for bit in quantise(h, grids)])


def _text_features(infinity: Infinity, prompt: str) -> NDArray[np.float32]:
    features: Tensor = infinity.encode_text(prompt).conditioning
    return features.float().cpu().numpy()


def _flat(planes: Tensor) -> NDArray[np.uint8]:
    """Planes [1, channels, h, w] as [tokens, channels]."""
    return planes[0].flatten(1).T.to(torch.uint8).cpu().numpy()


def _relative_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    if ours.shape != theirs.shape:
        return float("nan")  # another number of tokens: a miss
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _picture(size: Size) -> NDArray[np.uint8]:
    """Waves of colour: something of every scale, the same on every machine."""
    y, x = np.mgrid[: size.height, : size.width]
    waves = [np.sin(x / (7 + 9 * channel)) * np.cos(y / (31 - 9 * channel)) for channel in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def _infinity(backbone: AnyBackbone) -> Infinity:
    if not isinstance(backbone, Infinity):
        raise ValueError(f"{backbone.name} is no Infinity: only those are recorded")
    return backbone
