"""The T5 text encoder, read from a local folder in the form the Hugging Face hub uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
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
from service.model.engine.types import Text, TextCoverage, UnknownWord
from service.model.infinity.weight_names import TEXT_NAMING, is_text_encoder

# Prompts on a GPU are padded to multiples of so many tokens.
_PADDING_MULTIPLE = 16
# Of the words that a closed vocabulary lacks so many are named, beside a known one that is at least so like.
_MAX_NAMED_WORDS, _MAX_WORD_CHARS = 3, 40
_LIKENESS = 0.7  # of difflib, which finds "huose" 0.8 like "house"

if TYPE_CHECKING:
    from transformers import T5EncoderModel


class TextEncoder:
    """Prompts to the last hidden state of T5's encoder, without padding (golden README, 1.2).

    `device` is where the texts are needed, by default where the encoder is. An encoder on the CPU that
    `is_fetched` computes on `device`: its weights are copied there for each batch of prompts, then freed.
    """

    def __init__(
        self,
        words: WordTokenizer,
        encoder: T5EncoderModel,
        fillers: Sequence[str] | None = None,
        *,
        device: torch.device | None = None,
        is_fetched: bool = False,
        mapped_bytes: int = 0,
    ) -> None:
        home = encoder.shared.weight.device
        self._device = device or home
        self._reads_on = self._device if is_fetched else home
        self._is_fetched = is_fetched
        self.pads = (
            self._reads_on.type != "cpu"
        )  # else each prompt would round as its neighbours' lengths ask
        self.mapped_bytes = mapped_bytes  # of the weights, in their file
        words.no_padding()
        self._words = words
        self._encoder = encoder.eval()
        self.weights_on_cpu = linear_weights(encoder) if self._reads_on.type == "cpu" else []
        for module in encoder.modules():
            if type(module) is nn.Linear:
                # The same weights, on arithmetic that rounds a prompt alike alone and beside others.
                module.__class__ = Linear
        self._unknown = words.token_to_id("<unk>")
        marks = ("<unk>", "<pad>", "</s>")
        self._meaningless = {words.token_to_id(token) for token in (*marks, *(fillers or ()))}
        # Of a vocabulary that is closed: elsewhere what is unknown is a piece of a word.
        self._meaningful = (
            sorted(word for word, token in words.get_vocab().items() if token not in self._meaningless)
            if fillers is not None
            else None
        )

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        fillers: Sequence[str] | None = None,
        *,
        place: TextEncoderDevice = TextEncoderDevice.BESIDE,
        channels: int | None = None,
        on_progress: OnProgress = no_progress,
    ) -> TextEncoder:
        """Read `tokenizer.json`, `config.json` and the encoder's weights, straight to their place and dtype.

        `device` is the transformer's. `fillers` are, of a closed vocabulary, the words that name nothing by
        themselves; None where any word may mean something. `channels` is what the transformer reads.
        ValueError: what is missing, damaged or of another shape.
        """
        words = _read_words(folder)
        home = device if place is TextEncoderDevice.BESIDE else torch.device("cpu")
        encoder = empty_encoder(folder / "config.json", home, dtype)
        if channels not in (None, encoder.config.d_model):
            raise ValueError(
                f"the text encoder in {folder} gives {encoder.config.d_model} channels, and the transformer "
                f"reads {channels}"
            )
        weights = open_weights(folder, holds=is_text_encoder)
        mapped_bytes = load_weights(
            encoder, weights, TEXT_NAMING, model="the text encoder", on_progress=on_progress
        )
        if place is TextEncoderDevice.FETCHED and device.type == "cuda":
            for parameter in encoder.parameters():  # from pinned memory they come at the bus's full speed
                parameter.data = parameter.data.pin_memory()
        return cls(
            words,
            encoder,
            fillers,
            device=device,
            is_fetched=place is TextEncoderDevice.FETCHED,
            mapped_bytes=mapped_bytes,
        )

    @property
    def num_bytes(self) -> int:
        """Memory of the weights on the transformer's device, between batches."""
        here = (parameter for parameter in self._encoder.parameters() if parameter.device == self._device)
        return sum(parameter.nbytes for parameter in here)

    def encode(self, prompt: str, max_tokens: int) -> Text:
        return self.encode_all([prompt], max_tokens)[0]

    def encode_all(self, prompts: Sequence[str], max_tokens: int) -> list[Text]:
        """One text a prompt, in order; one that is cut keeps its end mark.

        On a CPU prompts of one length go through the encoder together: without padding no prompt sees its
        neighbours, and the linear layers take care of the rounding. On a GPU all go together, padded.
        """
        found = [self._tokens(prompt, max_tokens) for prompt in prompts]
        tokens = [ids for ids, _ in found]
        hidden: dict[int, Tensor] = {}
        run = self._fetched() if self._is_fetched else self._encoder
        for indices in self._passes(tokens):
            inputs = self._inputs([tokens[index] for index in indices])
            sent = {name: send(rows, self._reads_on) for name, rows in inputs.items()}
            states = run(**sent).last_hidden_state  # [prompts, tokens, channels]
            states = send(states.float(), self._device)
            # Copies: a text that is kept must not keep the whole batch.
            hidden |= {
                index: state[: len(tokens[index])].clone()
                for index, state in zip(indices, states, strict=True)
            }
        return [self._text(hidden[index], coverage) for index, (_, coverage) in enumerate(found)]

    def _passes(self, tokens: Sequence[Sequence[int]]) -> list[list[int]]:
        """Which prompts go through the encoder together, by index."""
        if self.pads:
            return [list(range(len(tokens)))]
        return [
            [index for index, ids in enumerate(tokens) if len(ids) == length]
            for length in sorted({len(ids) for ids in tokens})
        ]

    def _inputs(self, tokens: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The encoder's, [prompts, tokens]; no mask where nothing is padded."""
        if not self.pads:
            return {"input_ids": torch.tensor(tokens)}
        longest = max(map(len, tokens))
        length = longest + -longest % _PADDING_MULTIPLE
        padded = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in tokens])
        is_real = torch.arange(length) < torch.tensor([[len(ids)] for ids in tokens])
        # Added to scores as it is: of any other mask the library asks the device whether it masks at all.
        dtype = self._encoder.dtype
        mask = torch.zeros(is_real.shape, dtype=dtype).masked_fill(~is_real, torch.finfo(dtype).min)
        return {"input_ids": padded, "attention_mask": mask[:, None, None].expand(-1, 1, length, -1)}

    def coverage(self, prompt: str, max_tokens: int) -> TextCoverage:
        """Without encoding it."""
        _, coverage = self._tokens(prompt, max_tokens)
        return coverage

    def _tokens(self, prompt: str, max_tokens: int) -> tuple[list[int], TextCoverage]:
        encoded = self._words.encode(prompt)
        ids, is_cut = encoded.ids, len(encoded.ids) > max_tokens
        if is_cut:
            ids = [*ids[: max_tokens - 1], ids[-1]]  # the end mark stays
        num_known = sum(token not in self._meaningless for token in ids)
        unknown = (
            prompt[slice(*encoded.offsets[at])] for at, token in enumerate(ids) if token == self._unknown
        )
        return ids, TextCoverage(num_known, is_cut, self._named(unknown))

    def _named(self, words: Iterable[str]) -> tuple[UnknownWord, ...]:
        if self._meaningful is None:
            return ()
        some = list(dict.fromkeys(word.lower()[:_MAX_WORD_CHARS] for word in words))[:_MAX_NAMED_WORDS]
        nearest = [get_close_matches(word, self._meaningful, n=1, cutoff=_LIKENESS) for word in some]
        return tuple(map(UnknownWord, some, (match[0] if match else None for match in nearest)))

    def _fetched(self) -> Callable[..., Any]:
        """The encoder on copies of its weights where prompts are read, which live as long as this does."""
        copies = {
            name: parameter.to(self._reads_on, non_blocking=True)
            for name, parameter in self._encoder.named_parameters()
        }
        # Not tied: the word table's one module has two names, and would be put back wrong after the second.
        return lambda **inputs: functional_call(self._encoder, copies, (), inputs, tie_weights=False)

    def _text(self, features: Tensor, coverage: TextCoverage) -> Text:
        return Text(features, len(features), features.nbytes, coverage)


def _read_words(folder: Path) -> WordTokenizer:
    for name in ("tokenizer.json", "config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"the text encoder's folder {folder} has no {name}")
    try:
        return WordTokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error


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
