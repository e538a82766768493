"""Rival methods that need no training, on the same backbone. They are measured here and offered nowhere.

- Replacing the key feature is the engine's own ablation, Method.REP.
- AdaIN (Huang and Belongie, 2017, arXiv 1703.06868) of the feature's channels at the key step.
- Scale-wise style alignment (Park et al., 2025, arXiv 2504.06144), in which the style image takes the place
  of the batch's first image: its features, scale by scale, are what the image tokenizer reads in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from service.evaluation.paper.interventions import Intervention, SharedValues, rows_of_first_half
from service.model.attention import StepAttention


class AdaIN(Intervention):
    """Each channel of F at the key step gets the mean and the deviation of the style's."""

    def __init__(self, styles: Tensor, key_step: int) -> None:
        """`styles`: F of each path's style [paths, channels, H, W]."""
        self.styles, self.key_step = styles, key_step

    def after(self, features: Tensor, step: int) -> Tensor:
        return adain(features, self.styles) if step == self.key_step else features


def adain(features: Tensor, styles: Tensor, epsilon: float = 1e-5) -> Tensor:
    """[paths, channels, H, W], each channel with the mean and deviation over H and W of the style's."""
    own, other = (
        torch.std_mean(planes, dim=(2, 3), keepdim=True, correction=0) for planes in (features, styles)
    )
    return (features - own[1]) / (own[0] + epsilon) * other[0] + other[1]


class StyleAlignment(Intervention):
    """Initial feature replacement, pivotal feature interpolation, dynamic style injection.

    The first half of the paths are the style images', whose features are theirs at every step; the second
    half are drawn. Until the pivotal step (the model's key step: 3 on Infinity-2B, as in the paper) features
    are replaced, F_s <- F_s of the style; at it they are interpolated; for five steps from it on, values of
    self-attention are, by a weight that falls along an S.

    The text that was at hand fixes the steps and the forms. It does not fix the weight at the pivotal step
    nor the S: PIVOTAL_WEIGHT, INJECTION_STEEPNESS are this project's choice, and so the row is not the
    authors' result.
    """

    PIVOTAL_WEIGHT = 0.5
    INJECTION_STEEPNESS = 2.0
    NUM_INJECTED_STEPS = 5  # 3 to 7 in the paper

    def __init__(self, styles: Sequence[Tensor], pivotal_step: int) -> None:
        """`styles`: for each step, F of each drawn path's style [drawn paths, channels, H, W]."""
        self._styles, self._pivotal = styles, pivotal_step
        self._num_paths = 2 * len(styles[0])

    def after(self, features: Tensor, step: int) -> Tensor:
        style, drawn = self._styles[step - 1], features.chunk(2)[1]
        if step < self._pivotal:
            drawn = style
        elif step == self._pivotal:
            drawn = torch.lerp(drawn, style, self.PIVOTAL_WEIGHT)
        return torch.cat([style, drawn])

    def attention(self, attention: StepAttention, step: int) -> StepAttention:
        share = self.injected(step)
        if not share:
            return attention
        towards = rows_of_first_half(len(attention.sources), self._num_paths)
        same = {field.name: getattr(attention, field.name) for field in fields(StepAttention)}
        return SharedValues(**same, towards=towards, share=share)

    def injected(self, step: int) -> float:
        """The style's share of the values at a step: falls from near 1 to near 0 along an S."""
        place = step - self._pivotal
        if not 0 <= place < self.NUM_INJECTED_STEPS:
            return 0.0
        middle = (self.NUM_INJECTED_STEPS - 1) / 2
        return 1 / (1 + math.exp(self.INJECTION_STEEPNESS * (place - middle)))
