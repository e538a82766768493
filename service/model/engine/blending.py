"""Principal Feature Blending of a batch: each generation path's feature, blended with its styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.model.backbone import AnyBackbone
from service.model.device.transfer import index_tensor, send
from service.model.engine.types import Path, Styling
from service.model.style.feature import blend, directions_of


@dataclass(frozen=True, slots=True, eq=False)
class PathStyle:
    """What the styles of one path put in the place of its own principal part, known before the loop."""

    feature: Tensor  # [channels, H, W] on the device: of the weighted styles, their principal parts' sum
    strength: float
    alpha: float
    replaces: bool  # the ablation REP: the whole feature is replaced, not its principal part

    @classmethod
    def of(cls, styling: Styling, backbone: AnyBackbone) -> PathStyle:
        alpha = backbone.alpha if styling.alpha is None else styling.alpha
        replaces = styling.method.replaces
        parts = [
            style.weight
            * (
                backbone.style_feature(style.feature)
                if replaces
                else backbone.style_principal(style.feature, alpha)
            )
            for style in styling.styles
        ]
        return cls(send(torch.stack(parts).sum(0), backbone.device), styling.strength, alpha, replaces)


def blend_styles(features: Tensor, paths: Sequence[Path], styles: Sequence[PathStyle | None]) -> Tensor:
    """The features [paths, channels, H, W] after the fork, blended where a path has a style.

    A content path's feature is decomposed once, whatever the number of styles that it is blended with.
    """
    sources = [index if path.source is None else path.source for index, path in enumerate(paths)]
    blended = sorted(
        {source for source, style in zip(sources, styles, strict=True) if style and not style.replaces}
    )
    directions: dict[int, Tensor] = {}
    if blended:
        found = directions_of(features[index_tensor(blended, features.device)])
        directions = dict(zip(blended, found, strict=True))
    return torch.stack(
        [
            _styled(feature, style, directions.get(source))
            for feature, style, source in zip(features, styles, sources, strict=True)
        ]
    )


def _styled(feature: Tensor, style: PathStyle | None, directions: Tensor | None) -> Tensor:
    if style is None:
        return feature
    if style.replaces or directions is None:
        return feature + style.strength * (style.feature - feature)
    return blend(feature, style.feature, style.alpha, style.strength, directions)
