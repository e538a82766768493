"""What one batch keeps between steps: who its rows are, their keys and values, what their texts say.
Nothing of it outlives the batch, and nothing of it lives on the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace

import torch
from torch import Tensor

from service.model.device.transfer import index_tensor, send
from service.model.engine.types import Path, Row
from service.model.infinity.attention import Memory
from service.model.infinity.text_conditioning import BatchTexts, Reading
from service.model.schedule import Schedule


@dataclass(frozen=True, slots=True)
class ActiveRows:
    """The rows that are under way together, and what a step has to know of them, on the device."""

    rows: tuple[Row, ...]
    indices: tuple[int, ...]  # a row: its place in the batch
    places: Tensor  # the same
    sources: tuple[int, ...]  # a row: the own row whose queries and keys it attends with
    leaders: Tensor | None  # the same; None where each row is its own
    num_own: int  # the first rows, which compute their own attention
    path_of_row: Tensor
    conditional: Tensor  # a path: its conditional row
    unconditional: Tensor  # and its unconditional one; the same where there is none
    guidance: Tensor  # [steps, paths]
    is_guided: tuple[bool, ...]  # a step
    reading: Reading

    @classmethod
    def of(
        cls, paths: Sequence[Path], every: Sequence[Row], indices: Sequence[int], texts: BatchTexts
    ) -> ActiveRows:
        """The company of the rows at `indices` of a batch."""
        device = texts.pooled.device
        rows, origins = [every[index] for index in indices], content_rows_of(paths, every)
        present = sorted({row.path for row in rows})
        index_of = {(row.path, row.conditional): index for index, row in enumerate(rows)}
        conditional = [index_of[path, True] for path in present]
        unconditional = [index_of.get((path, False), index_of[path, True]) for path in present]
        guidance = list(zip(*(paths[path].guidance for path in present), strict=True))  # [steps][paths]
        sources = tuple(origins[i] if paths[every[i].path].corrected else i for i in indices)
        num_own = sum(not paths[row.path].corrected for row in rows)
        return cls(
            rows=tuple(rows),
            indices=tuple(indices),
            places=index_tensor(indices, device),
            sources=sources,
            leaders=None if sources == tuple(range(num_own)) else index_tensor(sources, device),
            num_own=num_own,
            path_of_row=index_tensor([present.index(row.path) for row in rows], device),
            conditional=index_tensor(conditional, device),
            unconditional=index_tensor(unconditional, device),
            guidance=send(torch.tensor(guidance), device),
            is_guided=tuple(any(weight != 1.0 for weight in weights) for weights in guidance),
            reading=texts.read_by(indices),
        )


@dataclass(slots=True)
class Cache:
    """The state of one batch. Rows are ordered by `lay_out`; the active ones are a prefix."""

    paths: tuple[Path, ...]
    rows: InitVar[Sequence[Row]]
    schedule: Schedule
    content_end_step: int  # the last one of content paths that nobody asked for
    rotation: Tensor  # [2, tokens, head width / 2]
    texts: BatchTexts
    keys: list[Tensor]  # a layer: [own rows, heads, tokens, head width]
    values: list[Tensor]  # a layer: [rows, heads, tokens, head width]
    is_fused: bool  # how it attends (`Memory`)
    num_tokens: int = 0  # computed so far
    step: int = 0  # the last one computed
    active: ActiveRows = field(init=False)
    everyone: ActiveRows = field(init=False)  # active from the fork on
    drawn: ActiveRows = field(init=False)  # whom the parting step leaves
    origins: tuple[int, ...] = field(init=False)  # a row: the content path's row of the same guidance half

    def __post_init__(self, rows: Sequence[Row]) -> None:
        self._seat(rows, forked=False)

    @property
    def is_forked(self) -> bool:
        return self.active is self.everyone

    @property
    def num_rows(self) -> int:
        return len(self.everyone.rows)

    def memory(self, layer: int, start: int, company: ActiveRows) -> Memory:
        """One layer's keys and values at a step from token `start` on, after which `company` goes on."""
        num_rows = len(self.active.rows)
        return Memory(
            self.keys[layer][: self.active.num_own],
            self.values[layer][:num_rows],
            start,
            self.num_tokens,
            company.sources,
            company.leaders,
            company.places if len(company.rows) < num_rows else None,
            self.is_fused,
        )

    def fork(self) -> None:
        """Activate every row; generation rows start from their content row's cache."""
        active, done = len(self.active.rows), slice(0, self.num_tokens)
        for index, origin in enumerate(self.origins[active:], start=active):
            for keys, values in zip(self.keys, self.values, strict=True):
                values[index, :, done] = values[origin, :, done]
                if index < len(keys):
                    keys[index, :, done] = keys[origin, :, done]
        self.active = self.everyone
        self.part_after(self.step)

    def shed(self, step: int) -> None:
        """Let the unconditional rows go that neither this step nor a later one has a use for."""
        needed = [
            index
            for index, row in enumerate(self.everyone.rows)
            if row.conditional or any(each != 1.0 for each in self.paths[row.path].guidance[step - 1 :])
        ]
        if len(needed) < len(self.everyone.rows):
            self._go_on_with(needed)

    def part_after(self, step: int) -> None:
        """After the parting step content paths that nobody asked for go, and everyone attends by itself."""
        if step != self.content_end_step or step == len(self.schedule.scales) or not self.is_forked:
            return
        self.paths = tuple(replace(path, source=None, corrected=False) for path in self.paths)
        self._go_on_with(self.drawn.indices)

    def _go_on_with(self, indices: Sequence[int]) -> None:
        """These rows alone; who computes its own attention has the keys that it has attended to."""
        forked, sources = self.is_forked, self.everyone.sources
        rows = [self.everyone.rows[index] for index in indices]
        num_own = sum(not self.paths[row.path].corrected for row in rows)
        for layer in range(len(self.keys)):  # one after another: only one layer is there twice
            self.keys[layer] = self._taken(self.keys[layer], [sources[index] for index in indices[:num_own]])
            self.values[layer] = self._taken(self.values[layer], indices)
        self.texts = self.texts.taken(indices)
        self._seat(rows, forked=forked)

    def _taken(self, cached: Tensor, indices: Sequence[int]) -> Tensor:
        """The lines at `indices` of keys or values, with room for as many tokens."""
        if list(indices) == list(range(len(indices))):
            return cached[: len(indices)]
        taken, done = cached.new_empty(len(indices), *cached.shape[1:]), slice(0, self.num_tokens)
        taken[:, :, done] = cached[:, :, done].index_select(0, index_tensor(indices, cached.device))
        return taken

    def _seat(self, rows: Sequence[Row], *, forked: bool) -> None:
        """Make these the rows of the batch."""
        num_first = sum(self.paths[row.path].source is None for row in rows)
        kept = [index for index, row in enumerate(rows) if self.paths[row.path].drawn]
        self.everyone = ActiveRows.of(self.paths, rows, range(len(rows)), self.texts)
        self.active = (
            self.everyone if forked else ActiveRows.of(self.paths, rows, range(num_first), self.texts)
        )
        self.drawn = ActiveRows.of(self.paths, rows, kept, self.texts)
        self.origins = content_rows_of(self.paths, rows)


def content_rows_of(paths: Sequence[Path], rows: Sequence[Row]) -> tuple[int, ...]:
    """For each row the row of its content path, of the same guidance half; a content row is its own."""
    index_of = {(row.path, row.conditional): index for index, row in enumerate(rows)}
    sources = [index if path.source is None else path.source for index, path in enumerate(paths)]
    return tuple(index_of[sources[row.path], row.conditional] for row in rows)
