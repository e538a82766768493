"""What one batch keeps between steps: what its texts say to each layer, keys and values, who its rows are.
Nothing of it outlives the batch, and nothing of it lives on the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.backbone import Path, Row, Schedule
from service.model.infinity.transformer import ReadText


@dataclass(frozen=True, slots=True)
class Reading:
    """All that follows from the texts of a batch, computed once for each different text."""

    pooled: Tensor  # [rows, width]
    modulations: tuple[Tensor, ...]  # a layer: [6, rows, 1, width]
    head_modulations: Tensor  # [2, rows, 1, width]
    texts: tuple[tuple[ReadText, ...], ...]  # a layer, a text
    text_of_row: tuple[int, ...]

    def runs(self, indices: Sequence[int]) -> list[tuple[slice, int]]:
        """Neighbours among these rows that read one text, with that text."""
        runs = [
            (text, len(list(group))) for text, group in groupby(self.text_of_row[index] for index in indices)
        ]
        ends = list(accumulate(length for _, length in runs))
        return [(slice(end - length, end), text) for end, (text, length) in zip(ends, runs, strict=True)]


@dataclass(frozen=True, slots=True)
class Company:
    """The rows that are under way together, and what a step has to know of them, on the device."""

    rows: tuple[Row, ...]
    indices: tuple[int, ...]  # a row: its place in the batch
    sources: tuple[int, ...]  # a row: the own row whose queries and keys it attends with
    num_own: int  # the first rows, which compute their own attention
    path_of_row: Tensor
    conditional: Tensor  # a path: its conditional row
    unconditional: Tensor  # and its unconditional one; the same where there is none
    guidance: Tensor  # [steps, paths]
    is_guided: tuple[bool, ...]  # a step

    @classmethod
    def of(
        cls, paths: Sequence[Path], every: Sequence[Row], indices: Sequence[int], device: torch.device
    ) -> Company:
        """The company of the rows at `indices` of a batch."""
        rows, origins = [every[index] for index in indices], origins_of(paths, every)
        present = sorted({row.path for row in rows})
        index_of = {(row.path, row.conditional): index for index, row in enumerate(rows)}
        conditional = [index_of[path, True] for path in present]
        unconditional = [index_of.get((path, False), index_of[path, True]) for path in present]
        guidance = torch.tensor([paths[path].guidance for path in present]).T.contiguous()
        return cls(
            rows=tuple(rows),
            indices=tuple(indices),
            sources=tuple(origins[i] if paths[every[i].path].corrected else i for i in indices),
            num_own=sum(not paths[row.path].corrected for row in rows),
            path_of_row=torch.tensor([present.index(row.path) for row in rows], device=device),
            conditional=torch.tensor(conditional, device=device),
            unconditional=torch.tensor(unconditional, device=device),
            guidance=guidance.to(device),
            is_guided=tuple((guidance != 1.0).any(1).tolist()),
        )


@dataclass(slots=True)
class Cache:
    """The state of one batch. Rows are ordered by `lay_out`; the active ones are a prefix."""

    schedule: Schedule
    active: Company
    everyone: Company  # active from the fork on
    drawn: Company  # whom the last step leaves
    kept: Tensor | None  # the places of its rows; None: everyone
    origins: tuple[int, ...]  # a row: the content path's row of the same guidance half
    rotation: Tensor  # [2, tokens, head width / 2]
    reading: Reading
    keys: list[Tensor]  # a layer: [own rows, heads, tokens, head width]
    values: list[Tensor]  # a layer: [rows, heads, tokens, head width]
    num_tokens: int = 0  # computed so far

    @property
    def num_rows(self) -> int:
        return len(self.everyone.rows)

    def fork(self) -> None:
        """Activate every row; generation rows start from their content row's cache."""
        active, done = len(self.active.rows), slice(0, self.num_tokens)
        for index, origin in enumerate(self.origins[active:], start=active):
            for keys, values in zip(self.keys, self.values, strict=True):
                values[index, :, done] = values[origin, :, done]
                if index < len(keys):
                    keys[index, :, done] = keys[origin, :, done]
        self.active = self.everyone


def origins_of(paths: Sequence[Path], rows: Sequence[Row]) -> tuple[int, ...]:
    """For each row the row of its content path, of the same guidance half; a content row is its own."""
    index_of = {(row.path, row.conditional): index for index, row in enumerate(rows)}
    sources = [index if path.source is None else path.source for index, path in enumerate(paths)]
    return tuple(index_of[sources[row.path], row.conditional] for row in rows)


def pad_texts(texts: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """[texts, length, channels] and the mask [texts, length] of real tokens."""
    padded = torch.stack([F.pad(text, (0, 0, 0, length - len(text))) for text in texts])
    lengths = torch.tensor([len(text) for text in texts], device=padded.device)
    return padded, torch.arange(length, device=padded.device) < lengths[:, None]
