"""Draws batches on a GPU that is not there, and prints what its host would have waited for.

The last is drawn by graphs that are not there either. Inside these nothing may come from the host at all: a
graph would repeat what came when it was captured.

`python -m tests.support.fake_device`: a process of its own, since torch can pretend one device, and for good.
Tensors there have shapes and no values (torch's FakeTensorMode), so that every operation of the loop over
scales is really called, on the device that it would be called on; two devices in one are an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from service.model.engine.generator import Cancelled, Generator
from service.model.engine.plan import texts_of
from service.model.engine.quality import EXACT, Shortcuts
from service.model.engine.types import ImageSpec, Text
from service.model.infinity.backbone import Infinity
from tests.support.fake_graph import FakeGraph
from tests.support.specs import SQUARE, specs
from tests.support.tiny import tiny_generator, tiny_infinity

UNGUIDED = Shortcuts(guidance_until=4)
# What reads a number from a tensor, or makes a shape of one.
_READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}


# What asks the device whether it could be done.
_CHECKED = {"linalg_eigh", "_linalg_eigh", "linalg_svd", "_linalg_svd"}


class Watching(TorchDispatchMode):
    """Notes, step by step, what a host waits for: copies that block, numbers read, decompositions."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self._num_steps = num_steps
        self.steps: list[list[str]] = [[]]
        self.num_sent = 0
        self.num_graphs = 0
        self._is_in_graph = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        crosses = len({tensor.device.type for tensor in _tensors((args, kwargs, out)) if tensor.dim()}) > 1
        if crosses and (kwargs or {}).get("non_blocking") and not self._is_in_graph:
            self.num_sent += 1
        elif crosses or name in _READS | _CHECKED:
            self.steps[-1].append(name)
        return out

    @contextmanager
    def in_graph(self) -> Iterator[None]:
        self._is_in_graph, self.num_graphs = True, self.num_graphs + 1
        yield
        self._is_in_graph = False

    def after_a_step(self) -> bool:
        self.steps.append([])
        return len(self.steps) > self._num_steps


class KnownTexts:
    """A text encoder whose work is done."""

    num_bytes = mapped_bytes = 0

    def __init__(self, texts: dict[str, Text]) -> None:
        self._texts = texts

    def encode_all(self, prompts: list[str], max_tokens: int) -> list[Text]:
        return [self._texts[prompt] for prompt in prompts]


def waits(
    model: Infinity, batch: list[ImageSpec], *, by_graphs: bool = False
) -> tuple[list[list[str]], list[str], int, int]:
    """What its host waits for at each step, and for decoding; how many tensors went without waiting; how many
    steps were captured."""
    watching = Watching(len(model.schedules[SQUARE].scales))
    texts = {text: model.encode_text(text) for spec in batch for text in texts_of(spec)}
    generator = Generator(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _move(model, texts)
        if by_graphs:
            model.steps.capture(lambda: FakeGraph(watching.in_graph))
        with watching:
            try:
                generator.generate(batch, watching.after_a_step)
            except Cancelled:
                *steps, decoding = watching.steps
            else:
                raise AssertionError("the loop did not come to its end")
            grid = model.feature_grids(model.schedules[SQUARE])[-1]
            model.decode(torch.empty(2, model.num_channels, grid.height, grid.width, device="gpu"))
    return steps, decoding, watching.num_sent, watching.num_graphs


def _move(model: Infinity, texts: dict[str, Text]) -> None:
    """Onto the device that is not there."""
    for part in (model.transformer, model.tokenizer):
        for module in part.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(_there(parameter), requires_grad=False)
    model.device, model.is_fused = model.transformer.start.device, True
    model.steps.device = model.device
    known = {prompt: replace(text, conditioning=_there(text.conditioning)) for prompt, text in texts.items()}
    model.text_encoder = KnownTexts(known)  # type: ignore[assignment]  # all that is asked of one


def _there(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="gpu")


def _tensors(tree: Any) -> list[Tensor]:
    return [tree_leave for tree_leave in tree_leaves(tree) if isinstance(tree_leave, Tensor)]


if __name__ == "__main__":
    batch = specs(tiny_generator(), SQUARE)
    models = [tiny_infinity() for _ in range(3)]  # before there is a device with random numbers of its own
    _setup_privateuseone_for_python_backend("gpu")
    found = [
        waits(model, [replace(spec, shortcuts=shortcuts) for spec in batch])
        for model, shortcuts in zip(models[:2], (EXACT, UNGUIDED), strict=True)
    ]
    # Two images: tensors of one number torch keeps the value of, and wants to move for real.
    found.append(waits(models[2], [batch[0], batch[3]], by_graphs=True))
    print(json.dumps(found))
