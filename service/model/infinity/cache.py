"""What one batch keeps between steps: text, keys and values, and who its rows are. Nothing of it outlives
the batch, and nothing of it lives on the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.backbone import Path, Row, Schedule

# Texts are padded to a multiple of this, and rows of one padded length are read together: a row is computed
# at the same length whoever shares its batch, so its rounding does not depend on them.
TEXT_BUCKET = 32


@dataclass(frozen=True, slots=True)
class TextGroup:
    """The rows whose texts have one padded length, with each layer's keys and values for them."""

    rows: tuple[int, ...]  # ascending
    index: Tensor  # the same, as a tensor
    mask: Tensor  # [rows, 1, 1, tokens] bool, true on real tokens
    keys: list[Tensor]  # a layer: [rows, heads, tokens, head width]
    values: list[Tensor]


@dataclass(slots=True)
class Cache:
    """The state of one batch. Rows are ordered by `lay_out`; the active ones are a prefix."""

    paths: tuple[Path, ...]
    rows: tuple[Row, ...]
    schedule: Schedule
    num_active: int  # paths
    num_active_rows: int
    own_rows: int  # rows that compute their own attention, once forked
    origins: tuple[int, ...]  # a row: the content path's row of the same guidance half
    rotation: Tensor  # [2, tokens, head width / 2]
    pooled: Tensor  # [rows, width]
    condition: Tensor  # [rows, 1, 6, width]
    text: list[TextGroup]
    keys: list[Tensor]  # a layer: [own rows, heads, tokens, head width]
    values: list[Tensor]  # a layer: [rows, heads, tokens, head width]
    num_tokens: int = 0  # computed so far

    @property
    def num_own(self) -> int:
        return min(self.own_rows, self.num_active_rows)

    def path_index(self, device: torch.device) -> Tensor:
        return torch.tensor([row.path for row in self.rows[: self.num_active_rows]], device=device)

    def attention_sources(self) -> list[int]:
        """For each active row, the row whose queries and keys it attends with."""
        return [
            origin if index >= self.own_rows else index
            for index, origin in enumerate(self.origins[: self.num_active_rows])
        ]

    def fork(self) -> None:
        """Activate every row; generation rows start from their content row's cache."""
        done = slice(0, self.num_tokens)
        for index, origin in enumerate(self.origins[self.num_active_rows :], start=self.num_active_rows):
            for keys, values in zip(self.keys, self.values, strict=True):
                values[index, :, done] = values[origin, :, done]
                if index < self.own_rows:
                    keys[index, :, done] = keys[origin, :, done]
        self.num_active, self.num_active_rows = len(self.paths), len(self.rows)


def origins_of(paths: Sequence[Path], rows: Sequence[Row]) -> tuple[int, ...]:
    """For each row the row of its content path, of the same guidance half; a content row is its own."""
    index_of = {(row.path, row.conditional): index for index, row in enumerate(rows)}
    sources = [index if path.source is None else path.source for index, path in enumerate(paths)]
    return tuple(index_of[sources[row.path], row.conditional] for row in rows)


def bucketed(lengths: Sequence[int]) -> dict[int, list[int]]:
    """Indices grouped by their length rounded up to whole buckets."""
    padded = [-(-length // TEXT_BUCKET) * TEXT_BUCKET for length in lengths]
    order = sorted(range(len(lengths)), key=lambda index: (padded[index], index))
    return {length: list(group) for length, group in groupby(order, key=padded.__getitem__)}


def pad_texts(texts: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """[texts, length, channels] and the mask [texts, length] of real tokens."""
    padded = torch.stack([F.pad(text, (0, 0, 0, length - len(text))) for text in texts])
    lengths = torch.tensor([len(text) for text in texts], device=padded.device)
    return padded, torch.arange(length, device=padded.device) < lengths[:, None]
