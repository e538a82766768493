"""The T5 text encoder, read from a local folder in the form the Hugging Face hub uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer as WordTokenizer
from torch import Tensor, nn

from service.model.backbone import Text
from service.model.linear import Linear

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
    ) -> TextEncoder:
        """Read `tokenizer.json`, `config.json` and the weights; ValueError: what is missing or damaged.

        `fillers` are words of the vocabulary that name nothing by themselves.
        """
        from transformers import T5EncoderModel  # slow to import, and only wanted here
        from transformers.utils import logging

        logging.disable_progress_bar()  # it would draw between the lines of the log

        for name in ("tokenizer.json", "config.json"):
            if not (folder / name).is_file():
                raise ValueError(f"the text encoder's folder {folder} has no {name}")
        try:
            words = WordTokenizer.from_file(str(folder / "tokenizer.json"))
            encoder = T5EncoderModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except Exception as error:  # the first library raises nothing narrower, the second anything at all
            raise ValueError(f"the text encoder in {folder} cannot be read: {error}") from error
        encoder.to(device)  # type: ignore[arg-type]  # the library's own annotation is wrong
        return cls(words, encoder, fillers)

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
