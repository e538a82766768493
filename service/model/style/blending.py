"""Principal Feature Blending: the paper's equation, and the blending of a batch at the key step.

With F as a matrix of tokens x channels and its thin SVD F = U diag(sigma) V^T, sigma descending,

    Phi_alpha(F) = U diag(exp(-alpha i) sigma_i) V^T = F M,    M = V diag(exp(-alpha i)) V^T,  i = 0, 1, ...

M is channels x channels and comes from the eigenvectors of F^T F, so no large SVD is needed, and the signs
that a linear algebra library happens to choose cancel.

A style of several pictures is Phi of their mean feature, not the mean of their Phi: one decomposition, whose
leading component is the best that the pictures have in common (Eckart-Young).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from service.model.backbone import AnyBackbone
from service.model.device.transfer import index_tensor, send
from service.model.engine.types import Box, Path, Styling, WeightedStyle


@dataclass(frozen=True, slots=True, eq=False)
class PathStyle:
    """What the styles of one path put in the place of its own principal part, known before the loop.

    Where styles have areas, `coverage` is the sum of their weights in each cell, [1, H, W].
    """

    feature: Tensor  # [channels, H, W] on the device: of the weighted styles, their principal parts' sum
    strength: float | Tensor  # [1, H, W] where an image is edited inside a mask
    alpha: float
    replaces_whole_feature: bool  # the ablation REP: the whole feature is replaced, not its principal part
    coverage: Tensor | None = None

    @classmethod
    def of(cls, styling: Styling, backbone: AnyBackbone, inside: Tensor | None = None) -> PathStyle:
        """`inside` is how much of each cell may change, [1, H, W] on the device; None for all of it."""
        alpha = backbone.alpha if styling.alpha is None else styling.alpha
        is_whole = styling.method.replaces_whole_feature
        parts = [_part(style, backbone, alpha, is_whole=is_whole) for style in styling.styles]
        weights = _weights(styling.styles, parts[0].shape[1:])
        weighted = [weight * part for weight, part in zip(weights, parts, strict=True)]
        coverage = sum(weight for weight in weights if isinstance(weight, Tensor))
        return cls(
            send(torch.stack(weighted).sum(0), backbone.device),
            styling.strength if inside is None else styling.strength * inside,
            alpha,
            is_whole,
            send(coverage, backbone.device) if isinstance(coverage, Tensor) else None,
        )

    def blended(self, feature: Tensor, directions: Tensor | None) -> Tensor:
        """A feature [channels, H, W], of these directions, with the styles in it.

        F + strength (Phi(F_style) - Phi(F)): strength 0 is F bit for bit, 1 is the paper's equation.
        """
        if self.replaces_whole_feature or directions is None:
            own = feature
        else:
            own = principal(feature, self.alpha, directions)
        if self.coverage is not None:
            own = self.coverage * own
        return feature + self.strength * (self.feature - own)


def blend_styles(features: Tensor, paths: Sequence[Path], styles: Sequence[PathStyle | None]) -> Tensor:
    """The features [paths, channels, H, W] after the fork, blended where a path has a style.

    A content path's feature is decomposed once, whatever the number of styles that it is blended with.
    """
    sources = [index if path.source is None else path.source for index, path in enumerate(paths)]
    decomposed = sorted(
        {
            source
            for source, style in zip(sources, styles, strict=True)
            if style and not style.replaces_whole_feature
        }
    )
    directions: dict[int, Tensor] = {}
    if decomposed:
        found = directions_of(features[index_tensor(decomposed, features.device)])
        directions = dict(zip(decomposed, found, strict=True))
    return torch.stack(
        [
            feature if style is None else style.blended(feature, directions.get(source))
            for feature, style, source in zip(features, styles, sources, strict=True)
        ]
    )


def _part(style: WeightedStyle, backbone: AnyBackbone, alpha: float, *, is_whole: bool) -> Tensor:
    """Phi(F_style), or F_style itself, [channels, H, W] fp32 on the CPU."""
    if style.box is None:
        return (
            backbone.style_feature(style.feature)
            if is_whole
            else backbone.style_principal(style.feature, alpha)
        )
    feature = stretched(backbone.style_feature(style.feature), style.box)
    return feature if is_whole else principal(feature, alpha, directions_of(feature[None])[0])


def stretched(feature: Tensor, box: Box) -> Tensor:
    """The part of a feature [channels, H, W] in a box, bilinearly stretched over all of it."""
    _, height, width = feature.shape
    y = box.top + (torch.arange(height) + 0.5) / height * (box.bottom - box.top)
    x = box.left + (torch.arange(width) + 0.5) / width * (box.right - box.left)
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1) * 2 - 1
    return F.grid_sample(feature[None], grid[None], padding_mode="border", align_corners=False)[0]


def _weights(styles: Sequence[WeightedStyle], extent: torch.Size) -> list[float | Tensor]:
    """Of each style; of those with areas in each cell, [1, H, W] on the CPU."""
    areas = [style.area for style in styles if style.area is not None]
    if not areas:
        return [style.weight for style in styles]
    if len(areas) < len(styles):
        raise ValueError("of the styles of one image all have areas, or none has")
    shares = [torch.from_numpy(area.pixels)[None].float() for area in areas]
    cells = torch.stack([F.adaptive_avg_pool2d(share, (extent[0], extent[1])) for share in shares])
    cells = cells / cells.sum(0).clamp_min(1.0)
    return [style.weight * cell for style, cell in zip(styles, cells, strict=True)]


def directions_of(features: Tensor) -> Tensor:
    """V of each accumulated feature [n, channels, H, W]: [n, channels, channels] fp64, by descending sigma.

    In fp64, as squaring halves the precision. One decomposition for all, since a GPU's host waits for each.
    """
    matrices = features.flatten(2).mT.double()  # [n, tokens, channels]
    _, vectors = torch.linalg.eigh(matrices.mT @ matrices)  # ascending
    return vectors.flip(-1)


def principal(feature: Tensor, alpha: float, directions: Tensor) -> Tensor:
    """Phi_alpha of an accumulated feature [channels, H, W], from its directions [channels, rank].

    Computed in fp64; the result has the feature's dtype.
    """
    matrix = feature.flatten(1).T.double()  # [tokens, channels]
    return reweighted(matrix, directions, alpha).T.reshape(feature.shape).to(feature.dtype)


def singular_values(feature: Tensor) -> Tensor:
    """Of an accumulated feature [channels, H, W], descending, fp32."""
    return torch.linalg.svdvals(feature.flatten(1).double()).float()


def reweighted(matrix: Tensor, vectors: Tensor, alpha: float) -> Tensor:
    """matrix [tokens, channels] times M, from right singular vectors [channels, rank] in descending order."""
    decay = torch.exp(-alpha * torch.arange(vectors.shape[1], dtype=torch.float64, device=vectors.device))
    return matrix @ (vectors * decay) @ vectors.T
