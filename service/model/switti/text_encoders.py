"""The two text encoders of Switti, CLIP ViT-L/14 and OpenCLIP bigG/14, from local folders.

A prompt's features are both encoders' last hidden states side by side, and bigG's state at the end mark, not
projected. The reference pads to 77 tokens and masks what is padded; both encoders look back only, so that the
tokens before are the same without (golden README, 6).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer as WordTokenizer
from torch import Tensor, nn
from torch.func import functional_call

from service.model.checkpoints.loader import OnProgress, load_weights, no_progress, open_weights
from service.model.device.linear import Linear, linear_weights
from service.model.device.precision import TextEncoderDevice
from service.model.device.transfer import send
from service.model.switti.config import TransformerConfig
from service.model.switti.weight_names import TEXT_NAMING, is_clip_text

if TYPE_CHECKING:
    from transformers import CLIPTextModel

_END = "<|endoftext|>"


@dataclass(frozen=True, slots=True, eq=False)
class TextFeatures:
    """An encoded prompt, without padding. The null prompt is the features of the empty text."""

    states: Tensor  # [tokens, text channels] fp32, start and end marks included
    pooled: Tensor  # [pooled channels] fp32
    is_cut: bool = False  # the prompt was longer than the encoders read


class ClipTower:
    """The text tower of one CLIP. `reads_on` is the device on which it computes.

    A tower that is on the CPU and computes on another device copies its weights there for each call.
    """

    def __init__(self, encoder: CLIPTextModel, reads_on: torch.device | None = None) -> None:
        # Older versions of the library wrap the tower once more.
        self._module: nn.Module = getattr(encoder, "text_model", encoder).eval()
        home = next(self._module.parameters()).device
        self._reads_on = reads_on or home
        self._is_fetched = self._reads_on != home
        self.num_channels: int = encoder.config.hidden_size
        self.weights_on_cpu = linear_weights(self._module) if self._reads_on.type == "cpu" else []
        for module in self._module.modules():
            if type(module) is nn.Linear:
                # The same weights, on arithmetic that rounds a prompt alike alone and beside others.
                module.__class__ = Linear

    def weight_bytes(self, device: torch.device) -> int:
        """Memory of the weights on a device, between calls."""
        return sum(weight.nbytes for weight in self._module.parameters() if weight.device == device)

    def states(self, ids: Tensor) -> Tensor:
        """Last hidden states [prompts, tokens, channels] of token IDs [prompts, tokens] of one length."""
        return self._run()(input_ids=send(ids, self._reads_on)).last_hidden_state

    def _run(self) -> Callable[..., Any]:
        if not self._is_fetched:
            return self._module
        copies = {
            name: parameter.to(self._reads_on, non_blocking=True)
            for name, parameter in (*self._module.named_parameters(), *self._module.named_buffers())
        }
        return lambda **inputs: functional_call(self._module, copies, (), inputs)


class TextEncoders:
    """Prompts to `TextFeatures` on a device, through both towers."""

    def __init__(
        self,
        words: WordTokenizer,
        tower: ClipTower,
        pooled_tower: ClipTower,
        *,
        device: torch.device,
        max_tokens: int = 77,
        mapped_bytes: int = 0,
    ) -> None:
        words.no_padding()
        words.no_truncation()
        end = words.token_to_id(_END)
        if end is None:
            raise ValueError(f"the text encoders' tokenizer has no {_END}: it is not a CLIP's")
        self._words, self._end = words, end
        self._towers = (tower, pooled_tower)
        self._device, self._max_tokens = device, max_tokens
        self.mapped_bytes = mapped_bytes  # of the weights, in their files

    @classmethod
    def from_folders(
        cls,
        folder: Path,
        pooled_folder: Path,
        config: TransformerConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        place: TextEncoderDevice = TextEncoderDevice.BESIDE,
        on_progress: OnProgress = no_progress,
    ) -> TextEncoders:
        """Read CLIP ViT-L/14 and bigG/14 as the hub has them; both share the first's `tokenizer.json`.

        `device` is the transformer's. ValueError: what is missing, damaged or of another shape.
        """
        words = _read_words(folder / "tokenizer.json")
        home = device if place is TextEncoderDevice.BESIDE else torch.device("cpu")
        reads_on = device if place is TextEncoderDevice.FETCHED else home
        towers, num_mapped = [], 0
        for source in (folder, pooled_folder):
            encoder = empty_encoder(source / "config.json", home, dtype)
            weights = open_weights(source, holds=is_clip_text)
            module = getattr(encoder, "text_model", encoder)
            num_mapped += load_weights(
                module, weights, TEXT_NAMING, model="the text encoder", on_progress=on_progress
            )
            towers.append(ClipTower(encoder, reads_on))
        tower, pooled_tower = towers
        widths = (tower.num_channels + pooled_tower.num_channels, pooled_tower.num_channels)
        if widths != (config.text_channels, config.pooled_channels):
            raise ValueError(
                f"the text encoders in {folder} and {pooled_folder} give {widths[0]} channels, and "
                f"{widths[1]} pooled; the transformer reads {config.text_channels} and "
                f"{config.pooled_channels}"
            )
        return cls(
            words, tower, pooled_tower,
            device=device, max_tokens=config.max_text_tokens, mapped_bytes=num_mapped,
        )  # fmt: skip

    @property
    def weights_on_cpu(self) -> list[Tensor]:
        """The matrices that prompts are multiplied by on the CPU."""
        return [weight for tower in self._towers for weight in tower.weights_on_cpu]

    @property
    def num_bytes(self) -> int:
        """Memory of the weights on the transformer's device, between batches."""
        return sum(tower.weight_bytes(self._device) for tower in self._towers)

    def encode(self, prompt: str) -> TextFeatures:
        return self.encode_all([prompt])[0]

    def encode_all(self, prompts: Sequence[str]) -> list[TextFeatures]:
        """The features of each prompt, in order. Prompts of one length are encoded together.

        Without padding no prompt sees its neighbours; the linear layers take care of the rounding on the CPU.
        """
        tokens = [self._tokens(prompt) for prompt in prompts]
        lengths = sorted({len(ids) for ids, _ in tokens})
        features: dict[int, TextFeatures] = {}
        for length in lengths:
            indices = [index for index, (ids, _) in enumerate(tokens) if len(ids) == length]
            rows = torch.tensor([tokens[index][0] for index in indices])
            states, pooled = (send(tower.states(rows).float(), self._device) for tower in self._towers)
            for row, index in enumerate(indices):
                ids, is_cut = tokens[index]
                both = torch.cat([states[row], pooled[row]], dim=-1)
                # A copy: a text that is kept must not keep the whole batch.
                features[index] = TextFeatures(both, pooled[row, ids.index(self._end)].clone(), is_cut)
        return [features[index] for index in range(len(tokens))]

    def count(self, prompt: str) -> tuple[int, bool]:
        """The number of its tokens, both marks included, and whether it was cut; without encoding it."""
        ids, is_cut = self._tokens(prompt)
        return len(ids), is_cut

    def _tokens(self, prompt: str) -> tuple[list[int], bool]:
        ids = self._words.encode(prompt).ids
        if len(ids) <= self._max_tokens:
            return ids, False
        return [*ids[: self._max_tokens - 1], ids[-1]], True  # the end mark stays


def empty_encoder(config_file: Path, device: torch.device, dtype: torch.dtype) -> CLIPTextModel:
    """A CLIP's text tower of a config.json's shape, its weights not filled in.

    ValueError names a file that is missing or damaged.
    """
    from transformers import CLIPTextConfig, CLIPTextModel  # slow to import, and only wanted here

    if not config_file.is_file():
        raise ValueError(f"the text encoder's folder {config_file.parent} has no config.json")
    try:
        stored = json.loads(config_file.read_bytes())
        config = CLIPTextConfig(**stored.get("text_config", stored))
        with torch.device("meta"):
            encoder = CLIPTextModel(config)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{config_file} cannot be read as a CLIP's: {error}") from error
    encoder.to(dtype)  # type: ignore[arg-type]  # the library's own annotation is wrong
    encoder.to_empty(device=device).requires_grad_(False)
    for name, positions in encoder.named_buffers():  # counted, not stored
        assert name.endswith("position_ids"), name
        positions.copy_(torch.arange(positions.shape[-1]).expand(positions.shape))
    return encoder


def _read_words(file: Path) -> WordTokenizer:
    if not file.is_file():
        raise ValueError(f"the text encoder's folder {file.parent} has no {file.name}")
    try:
        return WordTokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file} cannot be read: {error}") from error
