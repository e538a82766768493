"""Rows: the lines of a batch's tensors, job x path x guidance half, and which of them a step computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.model.device.transfer import index_tensor, send
from service.model.engine.types import Path
from service.model.shared_attention import row_groups


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the tensor batch: a path, and one of its guidance halves."""

    path: int
    conditional: bool


def lay_out_rows(paths: Sequence[Path]) -> tuple[Row, ...]:
    """The order of a batch's rows, fixed here and nowhere else.

    Paths come as content, generation without attention correction, generation with it, so that the rows that
    exist before the fork are a prefix, and so are the rows that compute their own attention. Among paths of
    one kind the conditional halves come first, because neighbours that share a text are read together.
    A path whose guidance is 1 at every step has no unconditional half.
    """
    ranks = [(path.source is not None) + path.corrected for path in paths]
    assert ranks == sorted(ranks), "paths must come as content, uncorrected, corrected"
    halves = [
        (rank, not conditional, index)
        for index, (rank, path) in enumerate(zip(ranks, paths, strict=True))
        for conditional in ((True, False) if any(g != 1.0 for g in path.guidance) else (True,))
    ]
    return tuple(Row(index, not unconditional) for _, unconditional, index in sorted(halves))


def content_rows_of(paths: Sequence[Path], rows: Sequence[Row]) -> tuple[int, ...]:
    """For each row the row of its content path, of the same guidance half; a content row is its own."""
    index_of = {(row.path, row.conditional): index for index, row in enumerate(rows)}
    sources = [index if path.source is None else path.source for index, path in enumerate(paths)]
    return tuple(index_of[sources[row.path], row.conditional] for row in rows)


@dataclass(frozen=True, slots=True)
class ActiveRows:
    """The rows that a step computes, and what the step needs to know of them, on the device."""

    rows: tuple[Row, ...]
    indices: tuple[int, ...]  # of each row among the batch's rows
    index: Tensor  # the same
    paths: tuple[int, ...]  # whose rows these are, ascending
    attention_sources: tuple[int, ...]  # of each row, the own row whose queries and keys it attends with
    attention_source_index: Tensor | None  # the same; None where each row attends with its own
    attention_groups: Tensor | None  # and as `row_groups` has them
    num_own: int  # the first rows, which compute their own queries and keys
    path_of_row: Tensor  # of each row, the index of its path among `paths`
    conditional: Tensor  # of each path, its conditional row
    unconditional: Tensor  # and its unconditional row; the conditional one where it has none
    guidance: Tensor  # [steps, paths]
    is_guided: tuple[bool, ...]  # of each step

    @classmethod
    def of(
        cls, paths: Sequence[Path], batch: Sequence[Row], indices: Sequence[int], device: torch.device
    ) -> ActiveRows:
        """The rows at `indices` of a batch's rows; of each path all halves that the batch has."""
        rows = [batch[index] for index in indices]
        content_rows = content_rows_of(paths, batch)
        present = sorted({row.path for row in rows})
        index_of = {(row.path, row.conditional): index for index, row in enumerate(rows)}
        conditional = [index_of[path, True] for path in present]
        unconditional = [index_of.get((path, False), index_of[path, True]) for path in present]
        guidance = list(zip(*(paths[path].guidance for path in present), strict=True))  # [steps][paths]
        sources = tuple(content_rows[i] if paths[batch[i].path].corrected else i for i in indices)
        num_own = sum(not paths[row.path].corrected for row in rows)
        shares = sources != tuple(range(num_own))
        return cls(
            rows=tuple(rows),
            indices=tuple(indices),
            index=index_tensor(indices, device),
            paths=tuple(present),
            attention_sources=sources,
            attention_source_index=index_tensor(sources, device) if shares else None,
            attention_groups=row_groups(sources, device) if shares else None,
            num_own=num_own,
            path_of_row=index_tensor([present.index(row.path) for row in rows], device),
            conditional=index_tensor(conditional, device),
            unconditional=index_tensor(unconditional, device),
            guidance=send(torch.tensor(guidance), device),
            is_guided=tuple(any(value != 1.0 for value in values) for values in guidance),
        )

    def guided(self, values: Tensor, step: int) -> Tensor:
        """Classifier-free guidance: rows' values [rows, ...] -> w c + (1 - w) u, [paths, ...]."""
        return guided(values, self.conditional, self.unconditional, self.weight(step))

    def weight(self, step: int) -> Tensor | None:
        """The guidance of each path at a step, [paths]; None where it is 1 for all."""
        return self.guidance[step - 1] if self.is_guided[step - 1] else None


def guided(values: Tensor, conditional: Tensor, unconditional: Tensor, weight: Tensor | None) -> Tensor:
    """`ActiveRows.guided`, of its tensors."""
    chosen = values[conditional]
    if weight is None:
        return chosen
    weight = weight.view(-1, *[1] * (values.dim() - 1))
    mixed = weight * chosen + (1 - weight) * values[unconditional]
    return torch.where(weight == 1.0, chosen, mixed)
