"""What the texts of a batch give to every layer, computed once for each different text.

A layer's texts have two forms. Separate: each by itself, so that a row rounds alike whatever its neighbours
read. Padded: all in one tensor, so that one kernel reads them and no shape depends on the prompts, as GPUs
and compilers like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.device.transfer import index_tensor, send
from service.model.switti.text_encoders import TextFeatures
from service.model.switti.transformer import Block, ReadText, TextAttention, Transformer

# Padded texts are a multiple of so many tokens long: a GPU's kernels read such a bias without copying it.
_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class RowConditioning:
    """All that follows from the texts of some rows."""

    start: Tensor  # [rows, 1, channels]: the first step's inputs
    modulations: Tensor  # [layers, 6, rows, 1, channels]
    head_modulations: Tensor  # [2, rows, 1, channels]
    read_text: tuple[ReadText, ...]  # a layer: normed tokens [rows, tokens, channels] -> the same


class TextConditioning:
    """The different texts of a batch as every layer reads them."""

    def __init__(
        self, transformer: Transformer, texts: Sequence[TextFeatures], *, is_padded: bool = False
    ) -> None:
        blocks = [cast(Block, block) for block in transformer.blocks]
        condition = transformer.condition(torch.stack([text.pooled for text in texts]))
        crop = transformer.crop_condition()
        self._start = transformer.first_inputs(condition)
        self._modulations = torch.stack([block.modulations(condition, crop) for block in blocks])
        self._head_modulations = transformer.head_modulations(condition)
        states = [text.states for text in texts]
        layers = [block.text_attention for block in blocks]
        self._layers: list[_Separate] | list[_Padded] = (
            _padded(layers, states) if is_padded else [_Separate(layer, states) for layer in layers]
        )

    def of_rows(self, text_of_row: Sequence[int]) -> RowConditioning:
        """For rows that read these texts, by their index."""
        rows = index_tensor(text_of_row, self._start.device)
        return RowConditioning(
            start=self._start[rows],
            modulations=self._modulations.index_select(2, rows),
            head_modulations=self._head_modulations.index_select(1, rows),
            read_text=tuple(layer.of_rows(text_of_row, rows) for layer in self._layers),
        )


class _Separate:
    """One layer's texts, each by itself; neighbouring rows with one text read it together."""

    def __init__(self, attention: TextAttention, states: Sequence[Tensor]) -> None:
        self._readers = [attention.reader(text) for text in states]

    def of_rows(self, text_of_row: Sequence[int], rows: Tensor) -> ReadText:
        runs = [(self._readers[text], len(list(group))) for text, group in groupby(text_of_row)]
        lengths = [length for _, length in runs]

        def read(x: Tensor) -> Tensor:
            parts = zip(runs, x.split(lengths), strict=True)
            return torch.cat([reader(part) for (reader, _), part in parts])

        return read


@dataclass(frozen=True, slots=True)
class _Padded:
    """One layer's texts in one tensor, as long as the longest."""

    attention: TextAttention
    keys: Tensor  # [texts, heads, tokens, head width]
    values: Tensor
    bias: Tensor  # [texts, 1, 1, tokens]: 0, and minus infinity on padding

    def of_rows(self, text_of_row: Sequence[int], rows: Tensor) -> ReadText:
        bias = self.bias[rows]

        def read(x: Tensor) -> Tensor:
            added: Tensor = self.attention(x, self.keys[rows], self.values[rows], bias)
            return added

        return read


def _padded(attentions: Sequence[TextAttention], states: Sequence[Tensor]) -> list[_Padded]:
    longest = max(map(len, states))
    longest += -longest % _MULTIPLE
    padded = torch.stack([F.pad(text, (0, 0, 0, longest - len(text))) for text in states])
    lengths = send(torch.tensor([len(text) for text in states]), padded.device)
    is_missing = torch.arange(longest, device=padded.device) >= lengths[:, None]
    layers = []
    for attention in attentions:
        keys, values = attention.keys_values(padded)
        bias = torch.zeros(is_missing.shape, dtype=keys.dtype, device=keys.device)
        bias = bias.masked_fill(is_missing, -torch.inf)[:, None, None]
        layers.append(_Padded(attention, keys, values, bias))
    return layers
