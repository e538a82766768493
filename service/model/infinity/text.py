"""The T5 text encoder, read from a local folder in the form the Hugging Face hub uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer as WordTokenizer

from service.model.backbone import Text

if TYPE_CHECKING:
    from transformers import T5EncoderModel


class TextEncoder:
    """Prompts to the last hidden state of T5's encoder, without padding (golden README, 1.2)."""

    def __init__(self, words: WordTokenizer, encoder: T5EncoderModel, fillers: Sequence[str] = ()) -> None:
        words.no_padding()
        self._words = words
        self._encoder = encoder.eval()
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
        """One prompt at a time, so that its features do not depend on its neighbours."""
        ids = self._words.encode(prompt).ids
        is_cut = len(ids) > max_tokens
        if is_cut:  # T5 keeps the end mark
            ids = [*ids[: max_tokens - 1], ids[-1]]
        unknown = sum(token == self._unknown for token in ids)
        device = self._encoder.shared.weight.device
        hidden = self._encoder(input_ids=torch.tensor([ids], device=device)).last_hidden_state[0]
        known = len(ids) - unknown - sum(token in self._meaningless for token in ids)
        return Text(hidden.float(), num_known=known, num_unknown=unknown, is_cut=is_cut)
