"""The T5 text encoder, read from a local folder in the form the Hugging Face hub uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer as WordTokenizer
from torch import Tensor, nn

from service.model.backbone import Text
from service.model.checkpoint import Watch, load_weights, unwatched
from service.model.infinity.names import TEXT_NAMING, is_text_encoder
from service.model.linear import Linear
from service.model.weight_files import open_weights

if TYPE_CHECKING:
    from transformers import T5EncoderModel


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    is_cut: bool


class TextEncoder:
    """Prompts to the last hidden state of T5's encoder, without padding (golden README, 1.2)."""

    def __init__(self, words: WordTokenizer, encoder: T5EncoderModel, fillers: Sequence[str] = ()) -> None:
        words.no_padding()
        self._words = words
        self._encoder = encoder.eval()
        for module in encoder.modules():
            if type(module) is nn.Linear:
                # The same weights, on arithmetic that rounds a prompt alike alone and beside others.
                module.__class__ = Linear
        self._unknown = words.token_to_id("<unk>")
        self._meaningless = {words.token_to_id(token) for token in ("<pad>", "</s>", *fillers)}

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        fillers: Sequence[str] = (),
        channels: int | None = None,
        watch: Watch = unwatched,
    ) -> TextEncoder:
        """Read `tokenizer.json`, `config.json` and the encoder's weights, straight to their device and dtype.

        `fillers` are words of the vocabulary that name nothing by themselves; `channels` is what the
        transformer reads. ValueError: what is missing, damaged or of another shape.
        """
        for name in ("tokenizer.json", "config.json"):
            if not (folder / name).is_file():
                raise ValueError(f"the text encoder's folder {folder} has no {name}")
        try:
            words = WordTokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        encoder = empty_encoder(folder / "config.json", device, dtype)
        if channels not in (None, encoder.config.d_model):
            raise ValueError(
                f"the text encoder in {folder} gives {encoder.config.d_model} channels, and the transformer "
                f"reads {channels}"
            )
        weights = open_weights(folder, holds=is_text_encoder)
        load_weights(encoder, weights, TEXT_NAMING, model="the text encoder", watch=watch)
        return cls(words, encoder, fillers)

    @property
    def num_bytes(self) -> int:
        """Memory of the weights."""
        return sum(each.nbytes for each in self._encoder.parameters())

    def encode(self, prompt: str, max_tokens: int) -> Text:
        return self.encode_all([prompt], max_tokens)[0]

    def encode_all(self, prompts: Sequence[str], max_tokens: int) -> list[Text]:
        """One text a prompt, in order. Prompts of one length go through the encoder together.

        Without padding no prompt sees its neighbours; the linear layers take care of the rounding on the CPU.
        """
        tokens = [self._tokens(prompt, max_tokens) for prompt in prompts]
        hidden: dict[int, Tensor] = {}
        for length in sorted({len(each.ids) for each in tokens}):
            indices = [index for index, each in enumerate(tokens) if len(each.ids) == length]
            rows = torch.tensor([tokens[index].ids for index in indices], device=self._device)
            states = self._encoder(input_ids=rows).last_hidden_state.float()  # [prompts, tokens, channels]
            # Copies: a text that is kept must not keep the whole batch.
            hidden |= {index: state.clone() for index, state in zip(indices, states, strict=True)}
        return [self._text(each, hidden[index]) for index, each in enumerate(tokens)]

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._encoder.shared.weight.device
        return device

    def _tokens(self, prompt: str, max_tokens: int) -> _Tokens:
        ids = self._words.encode(prompt).ids
        is_cut = len(ids) > max_tokens
        if is_cut:  # T5 keeps the end mark
            ids = [*ids[: max_tokens - 1], ids[-1]]
        return _Tokens(ids, is_cut)

    def _text(self, tokens: _Tokens, features: Tensor) -> Text:
        unknown = sum(token == self._unknown for token in tokens.ids)
        known = len(tokens.ids) - unknown - sum(token in self._meaningless for token in tokens.ids)
        return Text(features, num_known=known, num_unknown=unknown, is_cut=tokens.is_cut)


def empty_encoder(config_file: Path, device: torch.device, dtype: torch.dtype) -> T5EncoderModel:
    """A T5 encoder of a config.json's shape, its weights not filled in. ValueError names a damaged file."""
    from transformers import T5Config, T5EncoderModel  # slow to import, and only wanted here

    try:
        config = T5Config(**json.loads(config_file.read_bytes()))
        with torch.device("meta"):
            encoder = T5EncoderModel(config)
    except Exception as error:  # nor does this one
        raise ValueError(f"{config_file} cannot be read as a T5's: {error}") from error
    encoder.to(dtype)  # type: ignore[arg-type]  # the library's own annotation is wrong
    if dtype == torch.float16:  # T5 was trained in bf16: its hidden layers overflow fp16 behind these
        for name, module in encoder.named_modules():
            if name.endswith(".wo"):
                module.float()
    encoder.to_empty(device=device).requires_grad_(False)
    encoder.set_input_embeddings(encoder.shared)  # the encoder's table is the same one, again
    return encoder
