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
from torch import Tensor

from service.model.backbone import AnyBackbone
from service.model.device.transfer import index_tensor, send
from service.model.engine.types import Path, Styling


@dataclass(frozen=True, slots=True, eq=False)
class PathStyle:
    """What the styles of one path put in the place of its own principal part, known before the loop."""

    feature: Tensor  # [channels, H, W] on the device: of the weighted styles, their principal parts' sum
    strength: float
    alpha: float
    replaces_whole_feature: bool  # the ablation REP: the whole feature is replaced, not its principal part

    @classmethod
    def of(cls, styling: Styling, backbone: AnyBackbone) -> PathStyle:
        alpha = backbone.alpha if styling.alpha is None else styling.alpha
        replaces_whole_feature = styling.method.replaces_whole_feature
        parts = [
            style.weight
            * (
                backbone.style_feature(style.feature)
                if replaces_whole_feature
                else backbone.style_principal(style.feature, alpha)
            )
            for style in styling.styles
        ]
        return cls(
            send(torch.stack(parts).sum(0), backbone.device), styling.strength, alpha, replaces_whole_feature
        )


def blend_styles(features: Tensor, paths: Sequence[Path], styles: Sequence[PathStyle | None]) -> Tensor:
    """The features [paths, channels, H, W] after the fork, blended where a path has a style.

    A content path's feature is decomposed once, whatever the number of styles that it is blended with.
    """
    sources = [index if path.source is None else path.source for index, path in enumerate(paths)]
    blended = sorted(
        {
            source
            for source, style in zip(sources, styles, strict=True)
            if style and not style.replaces_whole_feature
        }
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
    if style.replaces_whole_feature or directions is None:
        return feature + style.strength * (style.feature - feature)
    return blend(feature, style.feature, style.alpha, style.strength, directions)


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


def blend(feature: Tensor, style: Tensor, alpha: float, strength: float, directions: Tensor) -> Tensor:
    """Principal Feature Blending of F [channels, H, W], of these directions, with a style's principal part.

    F + strength (Phi(F_style) - Phi(F)): strength 0 is F bit for bit, 1 is the paper's equation.
    """
    return feature + strength * (style - principal(feature, alpha, directions))


def singular_values(feature: Tensor) -> Tensor:
    """Of an accumulated feature [channels, H, W], descending, fp32."""
    return torch.linalg.svdvals(feature.flatten(1).double()).float()


def reweighted(matrix: Tensor, vectors: Tensor, alpha: float) -> Tensor:
    """matrix [tokens, channels] times M, from right singular vectors [channels, rank] in descending order."""
    decay = torch.exp(-alpha * torch.arange(vectors.shape[1], dtype=torch.float64, device=vectors.device))
    return matrix @ (vectors * decay) @ vectors.T
