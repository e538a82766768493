"""What one batch keeps between steps: what its texts say to each layer, keys and values, who its rows are.
Nothing of it outlives the batch, and nothing of it lives on the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.backbone import Path, Row, Schedule
from service.model.infinity.attention import Memory
from service.model.infinity.transformer import ReadText
from service.model.transfer import places, send


@dataclass(frozen=True, slots=True)
class Reading:
    """All that follows from the texts of a batch, computed once for each different text."""

    pooled: Tensor  # [rows, width]
    modulations: tuple[Tensor, ...]  # a layer: [6, rows, 1, width]
    head_modulations: Tensor  # [2, rows, 1, width]
    texts: tuple[tuple[ReadText, ...], ...]  # a layer, a text
    text_of_row: tuple[int, ...]

    def of_rows(self, indices: Sequence[int]) -> Reading:
        """What the texts of these rows say."""
        rows = places(indices, self.pooled.device)
        return Reading(
            pooled=self.pooled[rows],
            modulations=tuple(each[:, rows] for each in self.modulations),
            head_modulations=self.head_modulations[:, rows],
            texts=self.texts,
            text_of_row=tuple(self.text_of_row[index] for index in indices),
        )

    def of(self, company: Company, layer: int) -> TextsOfRows:
        """What the rows of a company read in a layer: neighbours with one text read it together."""
        groups = groupby(self.text_of_row[index] for index in company.indices)
        runs = [(text, len(list(group))) for text, group in groups]
        readers = tuple(self.texts[layer][text] for text, _ in runs)
        return TextsOfRows(readers, tuple(length for _, length in runs))


@dataclass(frozen=True, slots=True)
class TextsOfRows:
    """One layer's texts, with the number of neighbouring rows that read each."""

    readers: tuple[ReadText, ...]
    num_rows: tuple[int, ...]

    def read(self, x: Tensor) -> Tensor:
        """What each row's own text adds to its tokens x [rows, tokens, channels]."""
        parts = zip(self.readers, x.split(self.num_rows), strict=True)
        return torch.cat([reader(part) for reader, part in parts])


@dataclass(frozen=True, slots=True)
class Company:
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
        guidance = list(zip(*(paths[path].guidance for path in present), strict=True))  # [steps][paths]
        sources = tuple(origins[i] if paths[every[i].path].corrected else i for i in indices)
        num_own = sum(not paths[row.path].corrected for row in rows)
        return cls(
            rows=tuple(rows),
            indices=tuple(indices),
            places=places(indices, device),
            sources=sources,
            leaders=None if sources == tuple(range(num_own)) else places(sources, device),
            num_own=num_own,
            path_of_row=places([present.index(row.path) for row in rows], device),
            conditional=places(conditional, device),
            unconditional=places(unconditional, device),
            guidance=send(torch.tensor(guidance), device),
            is_guided=tuple(any(each != 1.0 for each in weights) for weights in guidance),
        )


@dataclass(slots=True)
class Cache:
    """The state of one batch. Rows are ordered by `lay_out`; the active ones are a prefix."""

    paths: tuple[Path, ...]
    rows: InitVar[Sequence[Row]]
    schedule: Schedule
    parting_step: int  # the last one of content paths that nobody asked for
    rotation: Tensor  # [2, tokens, head width / 2]
    reading: Reading
    keys: list[Tensor]  # a layer: [own rows, heads, tokens, head width]
    values: list[Tensor]  # a layer: [rows, heads, tokens, head width]
    num_tokens: int = 0  # computed so far
    step: int = 0  # the last one computed
    active: Company = field(init=False)
    everyone: Company = field(init=False)  # active from the fork on
    drawn: Company = field(init=False)  # whom the parting step leaves
    origins: tuple[int, ...] = field(init=False)  # a row: the content path's row of the same guidance half

    def __post_init__(self, rows: Sequence[Row]) -> None:
        self._seat(rows, forked=False)

    @property
    def is_forked(self) -> bool:
        return self.active is self.everyone

    @property
    def num_rows(self) -> int:
        return len(self.everyone.rows)

    def memory(self, layer: int, start: int, company: Company) -> Memory:
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
        if step != self.parting_step or step == len(self.schedule.scales) or not self.is_forked:
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
        self.reading = self.reading.of_rows(indices)
        self._seat(rows, forked=forked)

    def _taken(self, cached: Tensor, indices: Sequence[int]) -> Tensor:
        """The lines at `indices` of keys or values, with room for as many tokens."""
        if list(indices) == list(range(len(indices))):
            return cached[: len(indices)]
        taken, done = cached.new_empty(len(indices), *cached.shape[1:]), slice(0, self.num_tokens)
        taken[:, :, done] = cached[:, :, done].index_select(0, places(indices, cached.device))
        return taken

    def _seat(self, rows: Sequence[Row], *, forked: bool) -> None:
        """Make these the rows of the batch."""
        device = self.rotation.device
        num_first = sum(self.paths[row.path].source is None for row in rows)
        kept = [index for index, row in enumerate(rows) if self.paths[row.path].drawn]
        self.everyone = Company.of(self.paths, rows, range(len(rows)), device)
        self.active = self.everyone if forked else Company.of(self.paths, rows, range(num_first), device)
        self.drawn = Company.of(self.paths, rows, kept, device)
        self.origins = origins_of(self.paths, rows)


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
