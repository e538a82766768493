"""The distinct texts of a batch as every layer reads them, in one of two forms.

Separate: each text by itself, so that a row rounds alike whatever its neighbours' texts are. Padded: all
texts in one tensor, so that one kernel reads them and no shape depends on the prompts, as GPUs and compilers
need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.device.transfer import index_tensor, send
from service.model.layers import ReadText

# Padded texts are so many tokens long: few lengths, as graphs of steps are kept for each (`StepGraphs`), and
# multiples of 16, whose bias a GPU's kernels read without copying it. At most a third is padding beyond that.
_LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class TextAttention(Protocol):
    """One layer's attention to texts."""

    def __call__(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """What texts add to the tokens x [rows, tokens, channels]; `bias` [rows, 1, 1, text tokens] is added
        to the scores."""

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Of texts [texts, tokens, channels]: [texts, heads, tokens, head width] each."""

    def reader(self, text: Tensor) -> ReadText:
        """The call for one text [tokens, channels]."""


class LayerTexts(Protocol):
    """One layer's texts, and which row reads which."""

    def read(self, attention: TextAttention, x: Tensor) -> Tensor:
        """What each row's own text adds to its tokens x [rows, tokens, channels]."""


class TextLayers(Protocol):
    """The distinct texts of a batch, as every layer reads them."""

    def of_rows(self, text_of_row: Sequence[int]) -> tuple[LayerTexts, ...]:
        """One a layer, for rows with these texts."""


def text_layers(
    attentions: Sequence[TextAttention], texts: Sequence[Tensor], *, is_padded: bool
) -> TextLayers:
    """Texts [tokens, channels] of any lengths in one of the two forms; `attentions` has one a layer."""
    return (PaddedTexts if is_padded else SeparateTexts)(attentions, texts)


class SeparateTexts:
    """Each text by itself; neighbouring rows of one text read it together."""

    def __init__(self, attentions: Sequence[TextAttention], texts: Sequence[Tensor]) -> None:
        """Texts [tokens, channels] of any lengths; `attentions` has one a layer."""
        self._readers = [[attention.reader(text) for text in texts] for attention in attentions]

    def of_rows(self, text_of_row: Sequence[int]) -> tuple[LayerTexts, ...]:
        runs = [(text, len(list(group))) for text, group in groupby(text_of_row)]
        num_rows = tuple(length for _, length in runs)
        return tuple(_Separate(tuple(layer[text] for text, _ in runs), num_rows) for layer in self._readers)


class PaddedTexts:
    """All texts in one tensor, as long as the longest; padding is masked."""

    def __init__(self, attentions: Sequence[TextAttention], texts: Sequence[Tensor]) -> None:
        """Texts [tokens, channels] of any lengths; `attentions` has one a layer."""
        several = texts if len(texts) > 1 else [*texts, *texts]  # compilers specialise on a size of one
        padded, is_real = pad_texts(several, padded_length(max(map(len, texts))))
        self._keys_values = [attention.keys_values(padded) for attention in attentions]
        # A bias and not a mask, which each layer and step would convert to one.
        self._bias = torch.zeros_like(is_real, dtype=self._keys_values[0][0].dtype)
        self._bias = self._bias.masked_fill(~is_real, -torch.inf)[:, None, None]

    def of_rows(self, text_of_row: Sequence[int]) -> tuple[LayerTexts, ...]:
        rows = index_tensor(text_of_row, self._bias.device)
        bias = self._bias[rows]
        return tuple(_Padded(keys, values, rows, bias) for keys, values in self._keys_values)


@dataclass(frozen=True, slots=True)
class _Separate:
    readers: tuple[ReadText, ...]
    num_rows: tuple[int, ...]  # neighbours that share a reader

    def read(self, attention: TextAttention, x: Tensor) -> Tensor:
        parts = zip(self.readers, x.split(self.num_rows), strict=True)
        return torch.cat([reader(part) for reader, part in parts])


@dataclass(frozen=True, slots=True)
class _Padded:
    keys: Tensor  # [texts, heads, tokens, head width]
    values: Tensor
    text_of_row: Tensor
    bias: Tensor  # [rows, 1, 1, tokens]: 0, and minus infinity on padding

    def read(self, attention: TextAttention, x: Tensor) -> Tensor:
        keys, values = self.keys[self.text_of_row], self.values[self.text_of_row]
        read: Tensor = attention(x, keys, values, self.bias)
        return read


def padded_length(num_tokens: int) -> int:
    """The length to which texts are padded of which the longest has so many tokens."""
    whole = num_tokens + -num_tokens % _LENGTHS[0]
    return next((length for length in _LENGTHS if length >= num_tokens), whole)


def pad_texts(texts: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """[texts, length, channels] and the mask [texts, length] of real tokens."""
    padded = torch.stack([F.pad(text, (0, 0, 0, length - len(text))) for text in texts])
    lengths = send(torch.tensor([len(text) for text in texts]), padded.device)
    return padded, torch.arange(length, device=padded.device) < lengths[:, None]
