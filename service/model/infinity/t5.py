"""The T5 text encoder, read from a local folder in the form the Hugging Face hub uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
from service.model.engine.types import Text, TextCoverage
from service.model.infinity.weight_names import TEXT_NAMING, is_text_encoder

# Prompts on a GPU are padded to multiples of so many tokens.
_PADDING_MULTIPLE = 16

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
        fillers: Sequence[str] = (),
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
        self._meaningless = {words.token_to_id(token) for token in ("<unk>", "<pad>", "</s>", *fillers)}

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        fillers: Sequence[str] = (),
        *,
        place: TextEncoderDevice = TextEncoderDevice.BESIDE,
        channels: int | None = None,
        on_progress: OnProgress = no_progress,
    ) -> TextEncoder:
        """Read `tokenizer.json`, `config.json` and the encoder's weights, straight to their place and dtype.

        `device` is the transformer's. `fillers` are words of the vocabulary that name nothing by themselves;
        `channels` is what the transformer reads. ValueError: what is missing, damaged or of another shape.
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
        return [self._text(ids, hidden[index], is_cut=is_cut) for index, (ids, is_cut) in enumerate(found)]

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
        ids, is_cut = self._tokens(prompt, max_tokens)
        return TextCoverage(self._num_known(ids), is_cut)

    def _tokens(self, prompt: str, max_tokens: int) -> tuple[list[int], bool]:
        """The tokens of a prompt, and whether it was cut."""
        ids = self._words.encode(prompt).ids
        if len(ids) <= max_tokens:
            return ids, False
        return [*ids[: max_tokens - 1], ids[-1]], True  # the end mark stays

    def _num_known(self, ids: Sequence[int]) -> int:
        return sum(token not in self._meaningless for token in ids)

    def _fetched(self) -> Callable[..., Any]:
        """The encoder on copies of its weights where prompts are read, which live as long as this does."""
        copies = {
            name: parameter.to(self._reads_on, non_blocking=True)
            for name, parameter in self._encoder.named_parameters()
        }
        # Not tied: the word table's one module has two names, and would be put back wrong after the second.
        return lambda **inputs: functional_call(self._encoder, copies, (), inputs, tie_weights=False)

    def _text(self, ids: list[int], features: Tensor, *, is_cut: bool) -> Text:
        return Text(features, len(features), features.nbytes, self._num_known(ids), is_cut)


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
