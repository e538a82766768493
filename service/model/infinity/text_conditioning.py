"""What the texts of a batch contribute to every layer, computed once for each distinct text.

A layer's texts have two forms. Separate: each text by itself, so that a row rounds alike whatever its
neighbours' texts are. Padded: all texts in one tensor, so that one kernel reads them and no shape depends on
the prompts, as GPUs and compilers need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.device.transfer import index_tensor, send
from service.model.infinity.transformer import ReadText, TextAttention

# Padded texts are a multiple of so many tokens long: a GPU's kernels then read the bias without copying it.
_PADDING_MULTIPLE = 16


class LayerTexts(Protocol):
    """One layer's texts, and which row reads which."""

    def read(self, attention: TextAttention, x: Tensor) -> Tensor:
        """What each row's own text adds to its tokens x [rows, tokens, channels]."""


@dataclass(frozen=True, slots=True)
class TextConditioning:
    """All that the texts of some rows contribute."""

    pooled: Tensor  # [rows, width]
    modulations: Tensor  # [layers, 6, rows, 1, width]
    head_modulations: Tensor  # [2, rows, 1, width]
    layers: tuple[LayerTexts, ...]


@dataclass(frozen=True, slots=True)
class BatchTexts:
    """All that the distinct texts of a batch contribute, and which row has which."""

    pooled: Tensor  # [texts, width]
    modulations: Tensor  # [layers, 6, texts, 1, width]
    head_modulations: Tensor  # [2, texts, 1, width]
    layers: SeparateTexts | PaddedTexts
    of_row: tuple[int, ...]

    def keep_rows(self, indices: Sequence[int]) -> BatchTexts:
        """The texts of these rows alone."""
        return replace(self, of_row=tuple(self.of_row[index] for index in indices))

    def of_rows(self, indices: Sequence[int]) -> TextConditioning:
        of_row = [self.of_row[index] for index in indices]
        rows = index_tensor(of_row, self.pooled.device)
        return TextConditioning(
            pooled=self.pooled[rows],
            modulations=self.modulations.index_select(2, rows),
            head_modulations=self.head_modulations.index_select(1, rows),
            layers=self.layers.of_rows(of_row),
        )


class SeparateTexts:
    """Each text by itself; neighbouring rows of one text read it together."""

    def __init__(self, attentions: Sequence[TextAttention], texts: Sequence[Tensor]) -> None:
        """Texts [tokens, channels] of any lengths; `attentions` has one a layer."""
        self._readers = [[attention.reader(text) for text in texts] for attention in attentions]

    def of_rows(self, text_of_row: Sequence[int]) -> tuple[LayerTexts, ...]:
        """One a layer, for rows with these texts."""
        runs = [(text, len(list(group))) for text, group in groupby(text_of_row)]
        num_rows = tuple(length for _, length in runs)
        return tuple(_Separate(tuple(layer[text] for text, _ in runs), num_rows) for layer in self._readers)


class PaddedTexts:
    """All texts in one tensor, as long as the longest; padding is masked."""

    def __init__(self, attentions: Sequence[TextAttention], texts: Sequence[Tensor]) -> None:
        """Texts [tokens, channels] of any lengths; `attentions` has one a layer."""
        several = texts if len(texts) > 1 else [*texts, *texts]  # compilers specialise on a size of one
        longest = max(map(len, texts))
        padded, is_real = pad_texts(several, longest + -longest % _PADDING_MULTIPLE)
        self._keys_values = [attention.keys_values(padded) for attention in attentions]
        # A bias and not a mask, which each layer and step would convert to one.
        self._bias = torch.zeros_like(is_real, dtype=self._keys_values[0][0].dtype)
        self._bias = self._bias.masked_fill(~is_real, -torch.inf)[:, None, None]

    def of_rows(self, text_of_row: Sequence[int]) -> tuple[LayerTexts, ...]:
        """One a layer, for rows with these texts."""
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


def pad_texts(texts: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """[texts, length, channels] and the mask [texts, length] of real tokens."""
    padded = torch.stack([F.pad(text, (0, 0, 0, length - len(text))) for text in texts])
    lengths = send(torch.tensor([len(text) for text in texts]), padded.device)
    return padded, torch.arange(length, device=padded.device) < lengths[:, None]
