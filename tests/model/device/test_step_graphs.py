"""Which steps are captured, from which memory they are repeated, and that a repeated step is the step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from service.model.device import step_graphs
from service.model.device.step_graphs import StepGraphs, Tensors, most_row_tokens, num_small_steps
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec
from service.model.infinity.backbone import Infinity
from service.model.infinity.schedules import schedule
from service.model.switti.backbone import Switti
from tests.support.backbones import MAKERS
from tests.support.fake_graph import FakeGraph
from tests.support.specs import SQUARE, WIDE, specs
from tests.support.tiny import tiny_generator

PLAIN = tiny_generator()


@cache
def batch_of(size: object) -> list[ImageSpec]:
    return specs(PLAIN, size)  # type: ignore[arg-type]


def fused(backbone: str = "infinity") -> Infinity | Switti:
    """A fresh one, of the form that GPUs run."""
    model = MAKERS[backbone]().backbone
    assert isinstance(model, Infinity | Switti)
    model.is_fused = True
    return model


def captured(
    backbone: str = "infinity", new_graph: Callable[[], FakeGraph] = FakeGraph
) -> tuple[Infinity | Switti, list[FakeGraph]]:
    """A model that runs its small steps by graphs, and all graphs that it makes."""
    model, graphs = fused(backbone), []

    def noted() -> FakeGraph:
        graphs.append(new_graph())
        return graphs[-1]

    model.steps.capture(noted)
    return model, graphs


def test_small_steps_are_the_first_eight_of_one_stylised_megapixel_and_none_of_a_large_batch() -> None:
    megapixel = schedule(1.0, "1M")
    assert [num_small_steps(megapixel, rows) for rows in (1, 2, 4, 6, 8, 9)] == [8, 8, 8, 7, 6, 0]
    assert most_row_tokens([megapixel]) == 4 * (1 + 4 + 16 + 36 + 64 + 144 + 256 + 400)
    tiny = fused().schedules[SQUARE]
    assert num_small_steps(tiny, 4) == len(tiny.scales) - 1  # the last drops rows


@pytest.mark.slow
@pytest.mark.parametrize("size", [SQUARE, WIDE], ids=str)
def test_batches_by_graphs_are_those_without_from_their_first_to_their_last_bit(size: object) -> None:
    model, graphs = captured()
    by_graphs, without = Generator(model), Generator(fused())
    batch = batch_of(size)
    for asked in ([batch[0]], [batch[2]], batch[:2], [batch[4]], [batch[7]]):
        # Again with other words and seeds: by the same graphs, filled anew.
        again = [replace(spec, prompt="a blue fish", seed=spec.seed + 1) for spec in asked]
        for drawn in (asked, again):
            for ours, theirs in zip(by_graphs.generate(drawn), without.generate(drawn), strict=True):
                assert np.array_equal(ours.image, theirs.image)
    assert sum(graph.num_replays for graph in graphs) > len(graphs) / 2


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["switti", "switti-ar"])
def test_switti_too_draws_by_graphs_what_it_draws_without(backbone: str) -> None:
    """With keys and values of its own and with none; its guidance begins after the first step."""
    model, graphs = captured(backbone)
    by_graphs, without = Generator(model), Generator(fused(backbone))
    batch = specs(by_graphs, SQUARE)
    for asked in ([batch[0]], [batch[2]], batch[:2], [batch[4]]):
        again = [replace(spec, prompt="a blue fish", seed=spec.seed + 1) for spec in asked]
        for drawn in (asked, again):
            for ours, theirs in zip(by_graphs.generate(drawn), without.generate(drawn), strict=True):
                assert np.array_equal(ours.image, theirs.image)
    assert model.steps.num_graphs == len(graphs)
    assert sum(graph.num_replays for graph in graphs) > len(graphs) / 2


def test_a_batch_of_the_same_structure_captures_nothing_and_reads_the_same_memory() -> None:
    model, graphs = captured()
    generator = Generator(model)
    one = batch_of(SQUARE)[0]
    generator.generate([one])
    assert len(graphs) == len(model.schedules[SQUARE].scales) - 1
    assert isinstance(model, Infinity)
    assert model.steps.graphs is not None
    structures = list(model.steps.graphs._structures.values())
    addresses = [tensor.data_ptr() for structure in structures for tensor in structure.tensors]
    generator.generate([replace(one, seed=5, prompt="a green cat", guidance=2.0)])
    assert [graph.num_replays for graph in graphs] == [1] * len(graphs)
    again = [tensor.data_ptr() for structure in structures for tensor in structure.tensors]
    assert again == addresses
    assert list(model.steps.graphs._structures.values()) == structures


def test_a_batch_that_drops_rows_leaves_the_memory_of_graphs_and_goes_on_without() -> None:
    model, graphs = captured()
    by_graphs, without = Generator(model), Generator(fused())
    batch = [replace(spec, guidance=(3.0, 3.0, 3.0, 1.0, 1.0, 1.0)) for spec in batch_of(SQUARE)[:1]]
    ours, theirs = by_graphs.generate(batch), without.generate(batch)
    assert np.array_equal(ours[0].image, theirs[0].image)
    assert len(graphs) == 3


class Sums:
    """Graphs of a step that adds up what a batch has, and the lengths of what it was really computed of."""

    def __init__(self, **bounds: int) -> None:
        self.graphs: StepGraphs[tuple[torch.Tensor, ...]] = StepGraphs(FakeGraph, **bounds)
        self.calls: list[int] = []

    def run(self, length: int) -> float:
        (result,) = self.graphs.run("step", (torch.ones(length),), torch.ones(1), self._work)
        return result.item()

    def _work(self, state: tuple[torch.Tensor, ...], features: torch.Tensor) -> Tensors:
        self.calls.append(len(state[0]))
        return (state[0].sum() + features,)


def test_graphs_are_bounded_and_the_structure_used_longest_ago_goes_first() -> None:
    sums, most = Sums(), step_graphs.MAX_STRUCTURES
    assert [sums.run(length) for length in range(1, most + 3)] == list(range(2, most + 4))
    assert sums.graphs.num_graphs == most
    sums.calls.clear()
    sums.run(most)  # known: only replayed
    sums.run(1)  # forgotten: run and captured
    assert sums.calls == [most, 1, 1]


def test_what_graphs_keep_of_batches_is_bounded() -> None:
    sums = Sums(max_kept_bytes=100 * 4)
    assert [sums.run(40), sums.run(60), sums.run(39)] == [41, 61, 40]  # the last in the place of the first
    assert sums.graphs.num_graphs == 2
    sums.calls.clear()
    sums.run(60)
    sums.run(101)  # never kept
    assert (sums.calls, sums.graphs.num_graphs) == ([60, 101], 2)


class BrokenGraph(FakeGraph):
    def capture(self, work: Callable[[], Tensors]) -> Tensors:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_where_a_capture_fails_images_are_drawn_without_graphs_and_one_warning_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, graphs = captured(new_graph=BrokenGraph)
    by_graphs, without = Generator(model), Generator(fused())
    with caplog.at_level(logging.WARNING):
        for spec in batch_of(SQUARE)[:2]:
            (ours,), (theirs,) = by_graphs.generate([spec]), without.generate([spec])
            assert np.array_equal(ours.image, theirs.image)
    assert len(graphs) == 1
    assert caplog.messages == [
        "CUDA graphs are off, as one could not be captured: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("backbone", MAKERS)
def test_the_memory_of_graphs_counts_as_a_batchs(backbone: str) -> None:
    model = fused(backbone)
    without = model.batch_bytes(model.schedules[SQUARE], 1)
    model.steps.capture(FakeGraph)
    assert (arena := model.steps.arena) is not None
    graphs = model.batch_bytes(model.schedules[SQUARE], 1) - without
    assert graphs > arena.num_bytes + step_graphs.MAX_KEPT_BYTES
    # Rows and tokens of Infinity's wide schedule and of Switti's only one; layers and channels as tiny_config
    # has them, two numbers of fp32 each.
    row_tokens, layers = {
        "infinity": (8 * (1 + 4 + 6 + 15 + 54), 3),
        "switti": (8 * (1 + 4 + 9 + 16 + 36), 0),  # a scale attends to itself alone
        "switti-ar": (8 * (1 + 4 + 9 + 16 + 36), 2),
    }[backbone]
    assert arena.num_bytes == 2 * layers * row_tokens * 64 * 4
