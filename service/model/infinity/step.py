"""What a step does after its blocks, as functions that can be compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.model.infinity.config import SamplingConfig
from service.model.infinity.sampling import sample_bits
from service.model.infinity.tokenizer import signed_codes
from service.model.infinity.transformer import Transformer
from service.model.rows import guided


def guided_logits(
    transformer: Transformer, x: Tensor, modulations: Tensor, temperature: float, conditional: Tensor,
    unconditional: Tensor, weight: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Logits [paths, tokens, bits, 2] of rows x [rows, tokens, channels], and whether all are finite."""
    logits = transformer.logits(x, modulations) / temperature
    logits = guided(logits, conditional, unconditional, weight)
    return logits, torch.isfinite(logits).all()


def draw_codes(logits: Tensor, noise: Tensor, sampling: SamplingConfig, root: float) -> Tensor:
    """Codes of +-1 / root, [paths, tokens, bits], of logits and noise [paths, tokens, bits, 2]."""
    return signed_codes(sample_bits(logits, noise, top_k=sampling.top_k, top_p=sampling.top_p), root)


@dataclass(frozen=True, slots=True)
class StepFunctions:
    """Both of them, as they are or compiled."""

    guided_logits: Callable[..., tuple[Tensor, Tensor]] = guided_logits
    draw_codes: Callable[..., Tensor] = draw_codes

    @classmethod
    def compiled(cls, backend: str | Callable[..., Any]) -> StepFunctions:
        """At their first use, without a graph break. No grid is in them: a side of one token would make
        a version of its own."""
        return cls(
            torch.compile(guided_logits, fullgraph=True, dynamic=True, backend=backend),
            torch.compile(draw_codes, fullgraph=True, dynamic=True, backend=backend),
        )
