"""StepRunner: what the steps of all backbones share: where keys and values lie, which of torch's kernels
attends, and graphs of small steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from service.model.attention import AttentionShape, CachedLayer, use_fastest_kernel
from service.model.device.step_graphs import (
    MAX_KEPT_BYTES,
    CudaGraph,
    Graph,
    StepGraphs,
    most_row_tokens,
    num_small_steps,
)
from service.model.kv_cache import KeyValueArena, KeyValues, KVCache, RowGroup, TextT
from service.model.schedule import Schedule


@dataclass(frozen=True, slots=True)
class StepPlace(Generic[TextT]):
    """Where a step of a batch is: all that its work needs beside the active rows and the features."""

    step: int
    schedule: Schedule
    rotation: Tensor  # [2, tokens, head width / 2]
    layers: tuple[CachedLayer | None, ...]
    left: RowGroup[TextT] | None  # what the last layer leaves; None: all that is active


# Logits of a step's rows [paths, tokens, ...], and whether all are finite.
Predicted = tuple[Tensor, Tensor]
Work = Callable[[RowGroup[TextT], Tensor, StepPlace[TextT]], Predicted]


class StepRunner(Generic[TextT]):
    """Runs the steps of one backbone's batches."""

    def __init__(
        self, num_layers: int, num_heads: int, head_width: int, schedules: Iterable[Schedule],
        device: torch.device, dtype: torch.dtype, *, caches: bool = True,
    ) -> None:  # fmt: skip
        """`caches`: whether layers keep keys and values; not where a scale attends to itself alone."""
        self._num_layers, self._num_cached = num_layers, num_layers if caches else 0
        self._num_heads, self._head_width, self._schedules = num_heads, head_width, tuple(schedules)
        self.device, self._dtype = device, dtype
        self.graphs: StepGraphs[RowGroup[TextT]] | None = None
        self.arena: KeyValueArena | None = None  # while there are graphs
        if device.type == "cuda":
            shape = AttentionShape.of(self._schedules[0], num_heads, head_width, attends_back=caches)
            use_fastest_kernel(shape, device, dtype)

    def capture(self, new_graph: Callable[[], Graph] = CudaGraph) -> None:
        """Run the small steps of small batches by graphs, and take the memory in which these keep keys and
        values (`kept_bytes` counts it). Of the fused form."""
        self.graphs = StepGraphs(new_graph)
        self.arena = KeyValueArena(
            self._num_cached,
            self._num_heads,
            self._head_width,
            most_row_tokens(self._schedules),
            self.device,
            self._dtype,
        )

    @property
    def num_graphs(self) -> int:
        """Steps that have been captured."""
        return self.graphs.num_graphs if self.graphs else 0

    def kept_bytes(self, of_step: int) -> int:
        """What graphs keep between batches: keys and values of the small steps, what they read of a batch,
        and the activations of one step, which are given."""
        return MAX_KEPT_BYTES + self.arena.num_bytes + of_step if self.arena else 0

    def key_values(self, num_own: int, num_rows: int, schedule: Schedule) -> tuple[KeyValues, int]:
        """Room for a batch; where it begins with graphs, for so many steps alone, in memory that stays."""
        num_steps = num_small_steps(schedule, num_rows)
        if self.arena is not None and self.graphs is not None and not self.graphs.is_off and num_steps:
            num_tokens = sum(scale.num_tokens for scale in schedule.scales[:num_steps])
            if (static := self.arena.key_values(num_own, num_rows, num_tokens)) is not None:
                return static, num_steps
        own = KeyValues.empty(
            num_layers=self._num_cached,
            num_heads=self._num_heads,
            head_width=self._head_width,
            num_own=num_own,
            num_rows=num_rows,
            num_tokens=schedule.num_tokens,
            device=self.device,
            dtype=self._dtype,
        )
        return own, 0

    def run(self, cache: KVCache[TextT], features: Tensor, step: int, work: Work[TextT]) -> Tensor:
        """The logits of a step, by its graph where it has one; the rows that are left stay active."""
        assert self.graphs is None or cache.is_fused, "kernels that go through the rows ask for their number"
        rotation, left = cache.begin_step(step), cache.last_group(step)
        place = StepPlace(
            step,
            cache.schedule,
            rotation,
            tuple(cache.layer(index) for index in range(self._num_layers)),
            None if left is cache.active else left,
        )

        def computed(active: RowGroup[TextT], features: Tensor) -> Predicted:
            return work(active, features, place)

        if self.graphs is not None and cache.is_static(step):
            name = (cache.schedule, step, cache.key_values.shape)
            logits, is_finite = self.graphs.run(name, cache.active, features, computed)
        else:
            if self.graphs is not None:
                self.graphs.forget_state()
            logits, is_finite = computed(cache.active, features)
        cache.active = place.left or cache.active
        cache.is_finite = cache.is_finite & is_finite
        return logits
