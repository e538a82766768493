"""What the texts of a batch contribute to every layer, computed once for each distinct text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from service.model.device.transfer import index_tensor
from service.model.text_layers import LayerTexts, TextLayers


@dataclass(frozen=True, slots=True)
class TextConditioning:
    """All that the texts of some rows contribute."""

    pooled: Tensor  # [rows, width]
    modulations: Tensor  # [layers, 6, rows, 1, width]
    head_modulations: Tensor  # [2, rows, 1, width]
    layers: tuple[LayerTexts, ...]


@dataclass(frozen=True, slots=True)
class BatchTexts:
    """All that the distinct texts of a batch contribute."""

    pooled: Tensor  # [texts, width]
    modulations: Tensor  # [layers, 6, texts, 1, width]
    head_modulations: Tensor  # [2, texts, 1, width]
    layers: TextLayers

    def of_rows(self, text_of_row: Sequence[int]) -> TextConditioning:
        rows = index_tensor(text_of_row, self.pooled.device)
        return TextConditioning(
            pooled=self.pooled[rows],
            modulations=self.modulations.index_select(2, rows),
            head_modulations=self.head_modulations.index_select(1, rows),
            layers=self.layers.of_rows(text_of_row),
        )
