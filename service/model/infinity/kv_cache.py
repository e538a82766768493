"""KVCache: what one batch keeps between steps: its active rows, their keys and values, their texts.

Nothing of it outlives the batch, and nothing of it lives on the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.model.device.transfer import index_tensor
from service.model.engine.types import Path
from service.model.infinity.attention import LayerCache
from service.model.infinity.text_conditioning import BatchTexts, TextConditioning
from service.model.rows import ActiveRows, Row, content_rows_of
from service.model.schedule import Scale, Schedule


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that are active together, and their texts."""

    rows: ActiveRows
    text: TextConditioning


class KVCache:
    """The state of one batch. Rows are ordered by `lay_out_rows`; those before the fork are a prefix."""

    def __init__(
        self,
        paths: Sequence[Path],
        rows: Sequence[Row],
        texts: BatchTexts,
        *,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        rotation: Tensor,
        schedule: Schedule,
        extent: Scale,
        is_fused: bool,
    ) -> None:
        """Keys [own rows, heads, tokens, head width] and values [rows, heads, tokens, head width] of each
        layer, allocated and not filled; `rotation` as in `rope.rotations`; `schedule` with the steps that are
        run; `extent`: the grid of features.
        """
        self.paths = tuple(paths)
        self.keys, self.values = list(keys), list(values)
        self.rotation = rotation
        self.schedule = schedule
        self.extent = extent
        self.is_fused = is_fused
        self.is_finite = torch.ones((), dtype=torch.bool, device=rotation.device)
        self.num_rows = len(rows)
        self.num_tokens = 0  # computed so far, the current step's included
        self._step_tokens = 0
        self._is_forked = False
        self._texts = texts
        self.active: RowGroup
        self._set_rows(rows)
        self._feature_paths = self.active.rows.paths

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

    def layer(self, layer: int, group: RowGroup) -> LayerCache:
        """One layer's keys and values at the current step, whose result is of the rows of `group`."""
        active = self.active.rows
        return LayerCache(
            self.keys[layer][: active.num_own],
            self.values[layer][: len(active.rows)],
            self.num_tokens - self._step_tokens,
            self.num_tokens,
            group.rows.attention_sources,
            group.rows.attention_source_index,
            group.rows.index if len(group.rows.rows) < len(active.rows) else None,
            self.is_fused,
        )

    def begin_step(self, step: int) -> Tensor:
        """Make room for a step's tokens; the rotation of these, [2, tokens, head width / 2]."""
        self._drop_rows(step)
        self._step_tokens = self.schedule.scales[step - 1].num_tokens
        start, self.num_tokens = self.num_tokens, self.num_tokens + self._step_tokens
        return self.rotation[:, start : self.num_tokens]

    def last_group(self, step: int) -> RowGroup:
        """The rows that a step's last layer computes: at the last step of a forked batch, those of drawn
        paths. Of a content path that is not drawn only the attention weights are needed then.
        """
        return self._drawn if step == len(self.schedule.scales) and self._is_forked else self.active

    def fork(self, features: Tensor) -> Tensor:
        """Activate every row; generation rows start from their content row's cache."""
        num_active, done = len(self.active.rows.rows), slice(0, self.num_tokens)
        content_rows = content_rows_of(self.paths, self._all.rows.rows)
        for index, source in enumerate(content_rows[num_active:], start=num_active):
            for keys, values in zip(self.keys, self.values, strict=True):
                values[index, :, done] = values[source, :, done]
                if index < len(keys):
                    keys[index, :, done] = keys[source, :, done]
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
        for layer in range(len(self.keys)):  # one after another: only one layer is there twice
            self.keys[layer] = self._copied(self.keys[layer], needed[:num_own])
            self.values[layer] = self._copied(self.values[layer], needed)
        self._texts = self._texts.keep_rows(needed)
        self._set_rows(kept)

    def _copied(self, cached: Tensor, indices: Sequence[int]) -> Tensor:
        """The rows at `indices` of keys or values, with room for as many tokens."""
        if list(indices) == list(range(len(indices))):
            return cached[: len(indices)]
        copied, done = cached.new_empty(len(indices), *cached.shape[1:]), slice(0, self.num_tokens)
        copied[:, :, done] = cached[:, :, done].index_select(0, index_tensor(indices, cached.device))
        return copied

    def _set_rows(self, rows: Sequence[Row]) -> None:
        num_content = sum(self.paths[row.path].source is None for row in rows)
        drawn = [index for index, row in enumerate(rows) if self.paths[row.path].drawn]
        self._all = self._group(rows, range(len(rows)))
        self._drawn = self._group(rows, drawn)
        self.active = self._all if self._is_forked else self._group(rows, range(num_content))

    def _group(self, rows: Sequence[Row], indices: Sequence[int]) -> RowGroup:
        return RowGroup(
            ActiveRows.of(self.paths, rows, indices, self.rotation.device), self._texts.of_rows(indices)
        )
