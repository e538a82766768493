"""Steps recorded as CUDA graphs: a GPU repeats their kernels without its host launching each of them.

In the first steps of an image a kernel takes less time than its launch. A graph repeats the same kernels on
the same memory, so what a step reads is copied to memory of its own first: what belongs to the batch once for
all steps, features at each step. Noise is no part of it: it is drawn outside, for each image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import takewhile
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor

from service.model.schedule import Schedule

log = logging.getLogger(__name__)

# Up to so many tokens of all rows together, compiled kernels of a 2B model take an H100 less time than their
# launches (counted, not measured: `atelier bench counts`): eight steps of one stylised 1024 x 1024 image.
MAX_TOKENS = 1600
MAX_STEPS = 8
MAX_ROWS = 8
# Structures of batches whose graphs are kept: how many rows, which follows which, texts how long; and the
# bytes that all of them may keep of batches, of which most are keys and values of texts.
MAX_STRUCTURES = 16
MAX_KEPT_BYTES = 2**29

StateT = TypeVar("StateT")
Tensors = tuple[Tensor, ...]


def num_small_steps(schedule: Schedule, num_rows: int) -> int:
    """The first steps of a batch of so many rows that are worth a graph; never the last, which drops rows."""
    if num_rows > MAX_ROWS:
        return 0
    scales = schedule.scales[: min(MAX_STEPS, len(schedule.scales) - 1)]
    return len(list(takewhile(lambda scale: num_rows * scale.num_tokens <= MAX_TOKENS, scales)))


def most_row_tokens(schedules: Iterable[Schedule]) -> int:
    """Rows times tokens of all small steps, of the batch that has most."""
    return max(
        rows * sum(scale.num_tokens for scale in schedule.scales[: num_small_steps(schedule, rows)])
        for schedule in schedules
        for rows in range(1, MAX_ROWS + 1)
    )


class Graph(Protocol):
    """Kernels that were recorded once."""

    def capture(self, work: Callable[[], Tensors]) -> Tensors:
        """Record what `work` launches, which must be warm; its results, which are filled by `replay`."""

    def replay(self) -> None:
        """Launch what was recorded, on the same memory."""


class CudaGraph:
    """torch's, with one pool of memory for all graphs: only one is at work at a time."""

    _pool: Any = None

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, work: Callable[[], Tensors]) -> Tensors:
        if CudaGraph._pool is None:
            CudaGraph._pool = torch.cuda.graph_pool_handle()
        # Other threads may wait for images meanwhile.
        with torch.cuda.graph(self._graph, pool=CudaGraph._pool, capture_error_mode="thread_local"):
            return work()

    def replay(self) -> None:
        self._graph.replay()


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Graph
    features: Tensor  # what is read in place of the step's features
    results: Tensors


@dataclass(slots=True)
class _Structure(Generic[StateT]):
    """Batches that differ in values alone."""

    state: StateT  # in memory that stays
    tensors: list[Tensor]  # of the state, each once
    graphs: dict[Hashable, _Captured] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return _num_bytes(self.tensors)

    def fill(self, tensors: list[Tensor]) -> None:
        """With the values of another batch; tensors of one type at once."""
        pairs = list(zip(self.tensors, tensors, strict=True))
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            of_type = [pair for pair in pairs if pair[0].dtype == dtype]
            torch._foreach_copy_([kept for kept, _ in of_type], [new for _, new in of_type])


class StepGraphs(Generic[StateT]):
    """Runs the steps of batches by graphs, each captured when it is needed first.

    A state is all that a step reads of its batch, in dataclasses and tuples, and is not changed while the
    batch lasts. The first capture that fails ends it: from then on kernels are launched one by one.
    """

    def __init__(
        self, new_graph: Callable[[], Graph] = CudaGraph, max_kept_bytes: int = MAX_KEPT_BYTES
    ) -> None:
        self._new_graph, self._max_kept_bytes = new_graph, max_kept_bytes
        self._structures: dict[Hashable, _Structure[StateT]] = {}
        self._current: tuple[StateT, _Structure[StateT]] | None = None  # the state that a structure has now
        self.is_off = False

    @property
    def num_graphs(self) -> int:
        return sum(len(structure.graphs) for structure in self._structures.values())

    def forget_state(self) -> None:
        """A batch's small steps are over: nothing of it is needed any more."""
        self._current = None

    def run(
        self, name: Hashable, state: StateT, features: Tensor, work: Callable[[StateT, Tensor], Tensors]
    ) -> Tensors:
        """`work(state, features)`; the results are good until the same step of another batch.

        `name` stands for all else that the work depends on, which lies in the same memory for every batch.
        """
        structure = None if self.is_off else self._structure_of(state)
        if structure is None:
            return work(state, features)
        key = (name, features.shape)
        captured = structure.graphs.get(key)
        if captured is None:
            return self._capture(structure, key, features, work)
        captured.features.copy_(features)
        captured.graph.replay()
        return captured.results

    def _structure_of(self, state: StateT) -> _Structure[StateT] | None:
        """That of the state, filled with its values; None where it is too large to keep."""
        if self._current is not None and self._current[0] is state:
            return self._current[1]
        found, signature = dict[int, Tensor](), list[Hashable]()
        _walk(state, found, signature)
        key, tensors = tuple(signature), list(found.values())
        if _num_bytes(tensors) > self._max_kept_bytes:
            return None
        structure = self._structures.pop(key, None)
        if structure is None:
            self._make_room(_num_bytes(tensors))
            copies = {identity: tensor.clone() for identity, tensor in found.items()}
            structure = _Structure(cast(StateT, _copied(state, copies)), list(copies.values()))
        else:
            structure.fill(tensors)
        self._structures[key] = structure
        self._current = (state, structure)
        return structure

    def _make_room(self, num_bytes: int) -> None:
        """Forget the structures used longest ago until another of so many bytes may be kept."""
        kept = sum(structure.num_bytes for structure in self._structures.values())
        while len(self._structures) >= MAX_STRUCTURES or kept + num_bytes > self._max_kept_bytes:
            kept -= self._structures.pop(next(iter(self._structures))).num_bytes

    def _capture(
        self,
        structure: _Structure[StateT],
        key: Hashable,
        features: Tensor,
        work: Callable[[StateT, Tensor], Tensors],
    ) -> Tensors:
        kept = features.clone()
        results = work(structure.state, kept)  # as it is: compiles what is not compiled yet
        graph = self._new_graph()
        try:
            recorded = graph.capture(lambda: work(structure.state, kept))
        except Exception as error:  # whatever a driver, a library or a compiler has against being recorded
            log.warning("CUDA graphs are off, as one could not be captured: %s", error)
            self.is_off = True
            self._structures.clear()
            self.forget_state()
            return results
        structure.graphs[key] = _Captured(graph, kept, recorded)
        return results


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _walk(tree: Any, tensors: dict[int, Tensor], signature: list[Hashable]) -> None:
    """Collect the tensors of dataclasses and tuples, each once, and all of the tree but their values: what is
    equal for batches that the same graphs can draw."""
    if isinstance(tree, Tensor):
        signature.append((tree.shape, tree.stride(), tree.dtype, id(tree) in tensors))
        tensors[id(tree)] = tree
    elif isinstance(tree, tuple):
        signature.append(len(tree))
        for part in tree:
            _walk(part, tensors, signature)
    elif is_dataclass(tree) and not isinstance(tree, type):
        signature.append(type(tree))
        for member in fields(tree):
            _walk(getattr(tree, member.name), tensors, signature)
    else:
        signature.append(tree)


def _copied(tree: Any, copies: Mapping[int, Tensor]) -> Any:
    """The same dataclasses and tuples with copies in place of their tensors."""
    if isinstance(tree, Tensor):
        return copies[id(tree)]
    if isinstance(tree, tuple):
        return tuple(_copied(part, copies) for part in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        parts = {member.name: _copied(getattr(tree, member.name), copies) for member in fields(tree)}
        return replace(tree, **parts)
    return tree
