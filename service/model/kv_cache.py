"""KVCache: what one batch keeps between steps: its active rows, their keys and values, their texts.

Nothing of it outlives the batch, and nothing of it lives on the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from service.model.attention import CachedLayer, StepAttention
from service.model.device.transfer import index_tensor
from service.model.engine.types import Path
from service.model.rows import ActiveRows, Row, content_rows_of
from service.model.schedule import Scale, Schedule

TextT = TypeVar("TextT")
TextT_co = TypeVar("TextT_co", covariant=True)


class DistinctTexts(Protocol[TextT_co]):
    """The distinct texts of a batch, as the model reads them."""

    def of_rows(self, text_of_row: Sequence[int]) -> TextT_co:
        """All that they contribute to rows with these texts."""


@dataclass(slots=True)
class KeyValues:
    """Keys and values of every layer of one batch; no layers where a scale attends to itself alone.

    The rows in use are a prefix; own rows, which have keys, come first.
    """

    keys: list[Tensor]  # a layer: [own rows, heads, tokens of the schedule, head width]
    values: list[Tensor]  # a layer: [rows, heads, tokens of the schedule, head width]
    num_tokens: int = 0  # computed so far
    is_static: bool = False  # where `KeyValueArena` put them, which is where the next batch's will be

    @classmethod
    def empty(
        cls,
        *,
        num_layers: int,
        num_heads: int,
        head_width: int,
        num_own: int,
        num_rows: int,
        num_tokens: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> KeyValues:
        """Room for `num_tokens`, not filled."""

        def allocated(rows: int) -> list[Tensor]:
            shape = (rows, num_heads, num_tokens, head_width)
            return [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)]

        return cls(keys=allocated(num_own), values=allocated(num_rows))

    def layer(self, index: int, num_own: int, num_rows: int, num_new: int) -> CachedLayer | None:
        """One layer at a step of `num_new` tokens, for the first rows; None where nothing is cached."""
        if not self.keys:
            return None
        end = self.num_tokens + num_new
        return CachedLayer(self.keys[index][:num_own], self.values[index][:num_rows], self.num_tokens, end)

    def fork(self, sources: Sequence[int]) -> None:
        """Let row i start from what row `sources[i]` has; a row that is its own source stays."""
        done = slice(0, self.num_tokens)
        for keys, values in zip(self.keys, self.values, strict=True):
            for row, source in enumerate(sources):
                if row == source:
                    continue
                values[row, :, done] = values[source, :, done]
                if row < len(keys):
                    keys[row, :, done] = keys[source, :, done]

    def keep_rows(self, indices: Sequence[int], num_own: int) -> None:
        """Keep these rows, of which the first `num_own` have keys."""
        self.is_static = False
        for layer in range(len(self.keys)):  # one after another: only one layer is there twice
            keys, values = self.keys[layer], self.values[layer]
            self.keys[layer] = self._copied(keys, indices[:num_own], keys.shape[2])
            self.values[layer] = self._copied(values, indices, values.shape[2])

    @property
    def shape(self) -> tuple[torch.Size, ...]:
        """Of a layer's keys and values."""
        return tuple(cached[0].shape for cached in (self.keys, self.values) if cached)

    def grow(self, num_tokens: int) -> None:
        """Move into memory of their own, with room for so many tokens."""
        self.is_static = False
        for cached in (self.keys, self.values):
            cached[:] = [self._copied(layer, range(len(layer)), num_tokens) for layer in cached]

    def _copied(self, cached: Tensor, indices: Sequence[int], num_tokens: int) -> Tensor:
        """The rows at `indices` of keys or values, with room for so many tokens."""
        _, heads, room, width = cached.shape
        is_prefix = list(indices) == list(range(len(indices)))
        if is_prefix and num_tokens == room:
            return cached[: len(indices)]
        done = cached[:, :, : self.num_tokens]
        copied = cached.new_empty(len(indices), heads, num_tokens, width)
        copied[:, :, : self.num_tokens] = (
            done[: len(indices)] if is_prefix else done.index_select(0, index_tensor(indices, cached.device))
        )
        return copied


class KeyValueArena:
    """Memory for the keys and values of a batch's first steps: the same for every batch."""

    def __init__(
        self, num_layers: int, num_heads: int, head_width: int, num_row_tokens: int,
        device: torch.device, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        """`num_row_tokens`: rows times tokens of the batch that has most."""
        self._num_heads, self._head_width, self._num_row_tokens = num_heads, head_width, num_row_tokens
        shape = (num_row_tokens * num_heads * head_width,)
        self._keys, self._values = (
            [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)] for _ in range(2)
        )

    @property
    def num_bytes(self) -> int:
        return sum(flat.nbytes for flat in (*self._keys, *self._values))

    def key_values(self, num_own: int, num_rows: int, num_tokens: int) -> KeyValues | None:
        """Room for so many tokens, not filled, until this is called again; None where it is too small."""
        if num_rows * num_tokens > self._num_row_tokens:
            return None
        return KeyValues(
            [self._view(flat, num_own, num_tokens) for flat in self._keys],
            [self._view(flat, num_rows, num_tokens) for flat in self._values],
            is_static=True,
        )

    def _view(self, flat: Tensor, num_rows: int, num_tokens: int) -> Tensor:
        shape = (num_rows, self._num_heads, num_tokens, self._head_width)
        return flat[: num_rows * num_tokens * self._num_heads * self._head_width].view(shape)


@dataclass(frozen=True, slots=True)
class RowGroup(Generic[TextT]):
    """Rows that are active together, and their texts."""

    rows: ActiveRows
    text: TextT


def step_attention(
    active: ActiveRows, left: ActiveRows, cached: CachedLayer | None, *, is_fused: bool
) -> StepAttention:
    """How the active rows attend in a layer that leaves the rows `left` of them."""
    return StepAttention(
        sources=left.attention_sources,
        source_rows=left.attention_source_index,
        groups=left.attention_groups,
        kept=left.index if len(left.rows) < len(active.rows) else None,
        cached=cached,
        is_fused=is_fused,
    )


class KVCache(Generic[TextT]):
    """The state of one batch. Rows are ordered by `lay_out_rows`; those before the fork are a prefix."""

    def __init__(
        self,
        paths: Sequence[Path],
        rows: Sequence[Row],
        texts: DistinctTexts[TextT],
        text_of_row: Sequence[int],
        *,
        key_values: KeyValues,
        rotation: Tensor,
        schedule: Schedule,
        extent: Scale,
        is_fused: bool,
        num_static_steps: int = 0,
    ) -> None:
        """`key_values` has room for all rows, and for the tokens of all steps or of the first
        `num_static_steps`; `rotation` is cos and sin of every token, [2, tokens, head width / 2]; `schedule`
        has the steps that are run; `extent` is the grid of features.
        """
        self.paths = tuple(paths)
        self.key_values = key_values
        self.rotation = rotation
        self.schedule = schedule
        self.extent = extent
        self.is_fused = is_fused
        self._num_static_steps = num_static_steps
        self.is_finite = torch.ones((), dtype=torch.bool, device=rotation.device)
        self.num_rows = len(rows)
        self._step_tokens = 0  # of the current step
        self._is_forked = False
        self._texts, self._text_of_row = texts, tuple(text_of_row)
        self.active: RowGroup[TextT]
        self._set_rows(rows)
        self._feature_paths = self.active.rows.paths

    @property
    def active_paths(self) -> tuple[int, ...]:
        return self.active.rows.paths

    def feature_index(self, path: int) -> int:
        """Where a path is among the features; before the fork, where its content path is."""
        return self._feature_paths.index(path if path in self._feature_paths else self._content_of(path))

    def content_of_active(self) -> list[int]:
        """The content path of each active path."""
        return [self._content_of(path) for path in self.active.rows.paths]

    def keep_active(self, features: Tensor) -> Tensor:
        """The features of the paths that are still active, of [paths, channels, H, W] before the step."""
        before, now = self._feature_paths, self.active.rows.paths
        if now == before:
            return features
        self._feature_paths = now
        return features[index_tensor([before.index(path) for path in now], features.device)]

    def layer(self, index: int) -> CachedLayer | None:
        """One layer's keys and values at the current step; None where nothing is cached."""
        rows = self.active.rows
        return self.key_values.layer(index, rows.num_own, len(rows.rows), self._step_tokens)

    def begin_step(self, step: int) -> Tensor:
        """Make room for a step's tokens; the rotation of these, [2, tokens, head width / 2]."""
        self.key_values.num_tokens += self._step_tokens
        self._drop_rows(step)
        if step == self._num_static_steps + 1 > 1:
            self.key_values.grow(self.schedule.num_tokens)
        self._step_tokens = self.schedule.scales[step - 1].num_tokens
        start = self.key_values.num_tokens
        return self.rotation[:, start : start + self._step_tokens]

    def is_static(self, step: int) -> bool:
        """Whether a step is one of those that are the same work on the same memory for every such batch."""
        return self.key_values.is_static and step < len(self.schedule.scales)

    def last_group(self, step: int) -> RowGroup[TextT]:
        """The rows that a step's last layer computes: at the last step of a forked batch, those of drawn
        paths. Of a content path that is not drawn only the attention weights are needed then.
        """
        return self._drawn if step == len(self.schedule.scales) and self._is_forked else self.active

    def fork(self, features: Tensor) -> Tensor:
        """Activate every row; generation rows start from their content row's cache."""
        self.key_values.num_tokens += self._step_tokens
        self._step_tokens = 0
        self.key_values.fork(content_rows_of(self.paths, self._all.rows.rows))
        self._is_forked = True
        self.active = self._all
        self._feature_paths = self.active.rows.paths
        return features[index_tensor(self.content_of_active(), features.device)]

    def _content_of(self, path: int) -> int:
        source = self.paths[path].source
        return path if source is None else source

    def _drop_rows(self, step: int) -> None:
        """Drop the unconditional rows that neither this step nor a later one needs."""
        rows = self._all.rows.rows
        needed = [
            index
            for index, row in enumerate(rows)
            if row.conditional or any(value != 1.0 for value in self.paths[row.path].guidance[step - 1 :])
        ]
        if len(needed) == len(rows):
            return
        kept = [rows[index] for index in needed]
        num_own = sum(not self.paths[row.path].corrected for row in kept)
        self.key_values.keep_rows(needed, num_own)
        self._text_of_row = tuple(self._text_of_row[index] for index in needed)
        self._set_rows(kept)

    def _set_rows(self, rows: Sequence[Row]) -> None:
        num_content = sum(self.paths[row.path].source is None for row in rows)
        drawn = [index for index, row in enumerate(rows) if self.paths[row.path].drawn]
        self._all = self._group(rows, range(len(rows)))
        self._drawn = self._group(rows, drawn)
        self.active = self._all if self._is_forked else self._group(rows, range(num_content))

    def _group(self, rows: Sequence[Row], indices: Sequence[int]) -> RowGroup[TextT]:
        active = ActiveRows.of(self.paths, rows, indices, self.rotation.device)
        return RowGroup(active, self._texts.of_rows([self._text_of_row[index] for index in indices]))
