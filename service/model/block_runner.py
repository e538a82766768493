"""Running one block over a batch's rows, as it is or compiled; and what else is compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from service.model.attention import StepAttention
from service.model.layers import Attend, ReadText
from service.model.text_layers import LayerTexts, TextAttention


class Block(Protocol):
    """One layer of a transformer."""

    @property
    def text_attention(self) -> TextAttention: ...

    def __call__(
        self,
        x: Tensor,
        modulations: Tensor,
        rotation: Tensor,
        num_own: int,
        attend: Attend,
        read_text: ReadText,
        kept: Tensor | None = None,
    ) -> Tensor:
        """x: [rows, tokens, channels] -> the same; with `kept`, of those rows alone."""


RunBlock = Callable[[Block, Tensor, Tensor, Tensor, int, StepAttention, LayerTexts], Tensor]


def run_block(
    block: Block, x: Tensor, modulations: Tensor, rotation: Tensor, num_own: int,
    attention: StepAttention, texts: LayerTexts,
) -> Tensor:  # fmt: skip
    """What is compiled."""
    read = partial(texts.read, block.text_attention)
    return block(x, modulations, rotation, num_own, attention.attend, read, attention.kept)


def compiled_run_block(backend: str | Callable[..., Any] = "inductor") -> RunBlock:
    """`run_block`, compiled without a graph break at its first use.

    All blocks share the code, and so do all steps, prompts and batches: no shape is written into it. There
    are some twenty versions, for what a batch has or lacks (`warmup.compiled_batches`).
    """
    compiled: RunBlock = torch.compile(run_block, fullgraph=True, dynamic=True, backend=backend)
    return compiled


def compile_decoder(decoder: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile an image decoder in place, at its first use, for all sizes and numbers of images."""
    decoder.compile(fullgraph=True, dynamic=True, backend=backend)


def configure_compiler() -> None:
    """On the thread that draws: each thread has settings of its own."""
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 64
    torch._dynamo.config.specialize_float = True  # those of a configuration: temperature, top-p
    torch.fx.experimental._config.use_duck_shape = False  # as many rows as tokens is a coincidence
