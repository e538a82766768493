"""What the texts of a batch give to every layer, computed once for each different text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor

from service.model.device.transfer import index_tensor
from service.model.switti.text_encoders import TextFeatures
from service.model.switti.transformer import Block, ReadText, Transformer


@dataclass(frozen=True, slots=True)
class RowConditioning:
    """All that follows from the texts of some rows."""

    start: Tensor  # [rows, 1, channels]: the first step's inputs
    modulations: Tensor  # [layers, 6, rows, 1, channels]
    head_modulations: Tensor  # [2, rows, 1, channels]
    read_text: tuple[ReadText, ...]  # a layer: normed tokens [rows, tokens, channels] -> the same


class TextConditioning:
    """The different texts of a batch, read by every layer: each by itself, without padding.

    So a row rounds alike whatever its neighbours read, and no mask is needed.
    """

    def __init__(self, transformer: Transformer, texts: Sequence[TextFeatures]) -> None:
        blocks = [cast(Block, block) for block in transformer.blocks]
        conditions = [transformer.condition(text.pooled[None]) for text in texts]
        condition = torch.cat(conditions)  # one by one: so each rounds as alone
        crop = transformer.crop_condition()
        self._start = transformer.first_inputs(condition)
        self._modulations = torch.stack([block.modulations(condition, crop) for block in blocks])
        self._head_modulations = transformer.head_modulations(condition)
        self._readers = [[block.text_attention.reader(text.states) for text in texts] for block in blocks]

    def of_rows(self, text_of_row: Sequence[int]) -> RowConditioning:
        """For rows that read these texts, by their index."""
        rows = index_tensor(text_of_row, self._start.device)
        runs = [(text, len(list(group))) for text, group in groupby(text_of_row)]
        return RowConditioning(
            start=self._start[rows],
            modulations=self._modulations.index_select(2, rows),
            head_modulations=self._head_modulations.index_select(1, rows),
            read_text=tuple(
                _read_runs([layer[text] for text, _ in runs], [length for _, length in runs])
                for layer in self._readers
            ),
        )


def _read_runs(readers: Sequence[ReadText], num_rows: Sequence[int]) -> ReadText:
    """Neighbouring rows with one text read it together."""

    def read(x: Tensor) -> Tensor:
        parts = zip(readers, x.split(list(num_rows)), strict=True)
        return torch.cat([reader(part) for reader, part in parts])

    return read
