"""What the texts of a batch contribute to every layer, computed once for each distinct text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from service.model.device.transfer import index_tensor
from service.model.switti.text_encoders import TextFeatures
from service.model.switti.transformer import Block, Transformer
from service.model.text_layers import LayerTexts, text_layers


@dataclass(frozen=True, slots=True)
class RowConditioning:
    """All that the texts of some rows contribute."""

    start: Tensor  # [rows, 1, channels]: the first step's inputs
    modulations: Tensor  # [layers, 6, rows, 1, channels]
    head_modulations: Tensor  # [2, rows, 1, channels]
    layers: tuple[LayerTexts, ...]


class TextConditioning:
    """The distinct texts of a batch as every layer reads them."""

    def __init__(
        self, transformer: Transformer, texts: Sequence[TextFeatures], *, is_padded: bool = False
    ) -> None:
        blocks = [cast(Block, block) for block in transformer.blocks]
        condition = transformer.condition(torch.stack([text.pooled for text in texts]))
        crop = transformer.crop_condition()
        self._start = transformer.first_inputs(condition)
        self._modulations = torch.stack([block.modulations(condition, crop) for block in blocks])
        self._head_modulations = transformer.head_modulations(condition)
        attentions = [block.text_attention for block in blocks]
        self._layers = text_layers(attentions, [text.states for text in texts], is_padded=is_padded)

    def of_rows(self, text_of_row: Sequence[int]) -> RowConditioning:
        """For rows that read these texts, by their index."""
        rows = index_tensor(text_of_row, self._start.device)
        return RowConditioning(
            start=self._start[rows],
            modulations=self._modulations.index_select(2, rows),
            head_modulations=self._head_modulations.index_select(1, rows),
            layers=self._layers.of_rows(text_of_row),
        )
