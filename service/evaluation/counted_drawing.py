"""Drawing counted kernel by kernel: the real engine on an Infinity of any size, without values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from service.evaluation.compiled_kernels import kernels_compiled
from service.evaluation.launches import Kernel, counting
from service.model.attention import StepAttention
from service.model.block_runner import run_block
from service.model.engine.generator import Cancelled, Generator
from service.model.engine.types import ImageSpec, Styling, Text, WeightedStyle
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import InfinityConfig
from service.model.infinity.step import StepFunctions, draw_codes, guided_logits
from service.model.infinity.tokenizer import Tokenizer
from service.model.infinity.transformer import Transformer
from service.model.schedule import Size

_META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Call:
    """Of a function that is compiled: its kernels, and what it was called with."""

    function: Callable[..., Any]
    kernels: tuple[Kernel, ...]
    arguments: tuple[Any, ...]

    def compiled(self) -> Call:
        return replace(self, kernels=tuple(kernels_compiled(self.function, *self.arguments)))


@dataclass(frozen=True, slots=True)
class StepKernels:
    blocks: tuple[Call, ...]
    ends: tuple[Call, ...]  # what follows the blocks and is compiled as well: head, guidance, sampling
    num_tokens: int
    others: tuple[Kernel, ...]  # inputs and accumulation; of the first step the texts as well

    def __iter__(self) -> Iterator[Kernel]:
        for call in (*self.blocks, *self.ends):
            yield from call.kernels
        yield from self.others


@dataclass(frozen=True, slots=True)
class DrawnKernels:
    """Of one batch; its texts are encoded beforehand."""

    steps: tuple[StepKernels, ...]
    decode: tuple[Kernel, ...]
    features: Tensor  # what is decoded, without values

    def __iter__(self) -> Iterator[Kernel]:
        for step in self.steps:
            yield from step
        yield from self.decode


class CountedInfinity(Infinity):
    """An Infinity's shape, in the precision and form that GPUs run; tells what its blocks launch."""

    @classmethod
    def of(cls, config: InfinityConfig, dtype: torch.dtype = torch.bfloat16) -> CountedInfinity:
        with _META:
            transformer = Transformer(config.transformer, config.bits_per_token).requires_grad_(False).eval()
            tokenizer = Tokenizer(config.tokenizer).requires_grad_(False).eval()
        transformer.hold_blocks_in(dtype)
        tokenizer.hold_decoder_in(dtype)
        return cls(config, transformer, tokenizer, None, fingerprint="0" * 16, decoding="whole")

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        """Each of ten tokens."""
        texts = (torch.empty(10, self.config.transformer.text_channels, device=_META) for _ in prompts)
        return [Text(text, len(text), text.nbytes) for text in texts]

    def watch(self, kernels: list[Kernel], called: Callable[[Call], None]) -> None:
        """Move what a function that is compiled adds to `kernels` into a call."""

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                start = len(kernels)
                result = function(*arguments)
                called(Call(function, tuple(kernels[start:]), arguments))
                del kernels[start:]
                return result

            return call

        self._run_block = watched(run_block)
        self._functions = StepFunctions(watched(guided_logits), watched(draw_codes))


def count_drawing(infinity: CountedInfinity, num_styles: int = 1, size: Size | None = None) -> DrawnKernels:
    """The kernels of drawing one prompt in so many styles, as PyTorch launches them one by one."""
    generator = Generator(infinity)
    specs = _specs(infinity, generator, num_styles, size or generator.default_size)
    steps: list[StepKernels] = []
    calls: list[Call] = []
    scales = infinity.schedules[specs[0].size].scales
    grid = infinity.feature_grids(infinity.schedules[specs[0].size])[-1]
    features = torch.empty(num_styles, infinity.num_channels, grid.height, grid.width, device=_META)
    with torch.inference_mode(), counting() as counter:
        infinity.watch(counter.kernels, calls.append)

        def after_a_step() -> bool:
            blocks = tuple(call for call in calls if call.function is run_block)
            ends = tuple(call for call in calls if call.function is not run_block)
            others = tuple(counter.kernels)
            steps.append(StepKernels(blocks, ends, scales[len(steps)].num_tokens, others))
            calls.clear()
            counter.kernels.clear()
            return len(steps) == generator.num_steps(specs[0].size)

        with suppress(Cancelled):  # there are no pixels to wait for
            generator.draw(specs, after_a_step)
        infinity.decoding.images(features)
    return DrawnKernels(tuple(steps), tuple(counter.kernels), features)


def count_compiled(infinity: CountedInfinity, eager: DrawnKernels) -> DrawnKernels:
    """The same drawing by what `Infinity.compile` compiles: seconds a step, to plan each once."""
    with torch.inference_mode():
        steps = [
            replace(step, blocks=_compiled(step.blocks), ends=tuple(call.compiled() for call in step.ends))
            for step in eager.steps
        ]
        decode = kernels_compiled(infinity.tokenizer.decode, eager.features)
    return replace(eager, steps=tuple(steps), decode=tuple(decode))


def _compiled(blocks: Sequence[Call]) -> tuple[Call, ...]:
    """All layers of a step are one code, but for the last of the last step, which computes fewer rows."""
    planned = {_keeps_fewer(block): block for block in blocks}
    kernels = {is_last: block.compiled().kernels for is_last, block in planned.items()}
    return tuple(replace(block, kernels=kernels[_keeps_fewer(block)]) for block in blocks)


def _keeps_fewer(block: Call) -> bool:
    attention = next(argument for argument in block.arguments if isinstance(argument, StepAttention))
    return attention.kept is not None


def _specs(infinity: CountedInfinity, generator: Generator, num_styles: int, size: Size) -> list[ImageSpec]:
    grids = infinity.feature_grids(infinity.schedules[size])[: generator.key_step]
    random = torch.Generator().manual_seed(0)
    codes = [
        torch.randn(1, infinity.num_channels, grid.height, grid.width, generator=random) for grid in grids
    ]
    style = WeightedStyle(generator.decompose(infinity.tokens_of_codes(codes), size))
    strengths = (1 - 0.01 * number for number in range(num_styles))
    return [ImageSpec("", 0, size, styling=Styling((style,), strength=strength)) for strength in strengths]
