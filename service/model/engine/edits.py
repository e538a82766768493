"""Edits: what the paths of a batch keep of pictures, step by step.

An edited path has a weight of each step and cell: 1 where its codes are the picture's, 0 where they are its
own. F_s = F_{s-1} + (1 - w) up(R_s) + w up(R_picture,s).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.backbone import AnyBackbone, BatchCache
from service.model.device.transfer import index_tensor, send
from service.model.engine.plan import Plan
from service.model.engine.types import Area, ContentPicture, Coupling
from service.model.schedule import Scale
from service.model.style.blending import PathStyle
from service.model.style.tokens import StyleTokens

# The ramp of a mask in cells from its rim, for a grid of 64 cells: EditInfinity's. Other grids in proportion.
RAMP_BEGINS, RAMP_ENDS, RAMP_GRID = 1, 5, 64


class Edits:
    """Of one batch. Without edits everything is the backbone's own."""

    def __init__(
        self,
        backbone: AnyBackbone,
        cache: BatchCache,
        plan: Plan,
        tokens: Mapping[ContentPicture, StyleTokens],
        features: Tensor,
    ) -> None:
        """`tokens` are those of the plan's pictures; `features` are F_0, for their grid."""
        self._backbone, self._cache, self._plan = backbone, cache, plan
        self._edits = {index: edit for index, edit in enumerate(plan.edits) if edit is not None}
        schedule, num_steps = plan.schedule, len(plan.schedule.scales)
        extent = Scale(*features.shape[-2:])
        self._codes = {
            picture: backbone.codes_of_tokens(of_picture, schedule, num_steps)
            for picture, of_picture in tokens.items()
        }
        self._nowhere = torch.zeros(1, extent.height, extent.width, device=backbone.device)
        self._everywhere = torch.ones_like(self._nowhere)
        self._outside = {
            edit.mask: send(outside(edit.mask, extent), backbone.device)
            for edit in self._edits.values()
            if edit.mask is not None
        }

    def style_of(self, path: int) -> PathStyle | None:
        """What is blended into a path at the key step: inside its mask, if it has one."""
        styling, edit = self._plan.stylings[path], self._edits.get(path)
        if styling is None:
            return None
        inside = None if edit is None or edit.mask is None else 1 - self._outside[edit.mask]
        return PathStyle.of(styling, self._backbone, inside)

    def couple(self, codes: Tensor, logits: Tensor, noise: Any, step: int) -> Tensor:
        """R_s: of paths that follow the content path of a picture, as near to its codes as they can be."""
        active = list(self._cache.active_paths)
        coupled = [
            (index, source, self._edits[path])
            for index, path in enumerate(active)
            if path in self._edits
            and (source := self._plan.paths[path].source) is not None
            and self._edits[path].weight(step) < 1
        ]
        if not coupled:
            return codes
        coupling = Coupling(
            paths=index_tensor([index for index, _, _ in coupled], codes.device),
            references=index_tensor([active.index(source) for _, source, _ in coupled], codes.device),
            sources=tuple(source for _, source, _ in coupled),
            codes=torch.cat([self._codes[edit.picture][step - 1] for _, _, edit in coupled]),
        )
        return self._backbone.couple(self._cache, codes, logits, noise, step, coupling)

    def accumulate(self, features: Tensor, codes: Tensor, step: int) -> Tensor:
        """F_s [paths, channels, H, W] of the active paths, from F_{s-1} and their own codes R_s."""
        features = self._cache.keep_active(features)
        own = self._backbone.accumulate(self._cache, features, codes, step)
        active = self._cache.active_paths
        if not any(self._keeps(path, step) for path in active):
            return own
        pictures = torch.cat(
            [
                self._codes[self._edits[path].picture][step - 1] if path in self._edits else code[None]
                for path, code in zip(active, codes, strict=True)
            ]
        )
        kept = self._backbone.accumulate(self._cache, features, pictures, step)
        weights = torch.stack([self._weights(path, step) for path in active])
        return torch.lerp(own, kept, weights)  # exact where a weight is 0 or 1

    def _keeps(self, path: int, step: int) -> bool:
        edit = self._edits.get(path)
        return edit is not None and (edit.mask is not None or edit.weight(step) > 0)

    def _weights(self, path: int, step: int) -> Tensor:
        """How much of each cell's codes is the picture's, [1, H, W]."""
        edit = self._edits.get(path)
        if edit is None:
            return self._nowhere
        outside = self._nowhere if edit.mask is None else self._outside[edit.mask]
        return torch.lerp(outside, self._everywhere, edit.weight(step))


def outside(mask: Area, extent: Scale) -> Tensor:
    """How far each cell is out of a mask, [1, H, W] fp32: 0 in it and next to it, 1 from the end of the ramp.

    A cell belongs to the mask when any of its pixels does. Distances are those of a king on a chessboard.
    """
    pixels = torch.from_numpy(mask.pixels)[None].float()
    reached = F.adaptive_max_pool2d(pixels, (extent.height, extent.width))
    unit = max(extent.height, extent.width) / RAMP_GRID
    weights = (reached == 0).float()
    for distance in range(1, 1 + max(0, round(RAMP_ENDS * unit))):
        wider = F.max_pool2d(reached, 3, stride=1, padding=1)
        rim = (wider > 0) & (reached == 0)
        share = (distance / unit - RAMP_BEGINS) / (RAMP_ENDS - RAMP_BEGINS)
        weights[rim] = min(1.0, max(0.0, share))
        reached = wider
    return weights
