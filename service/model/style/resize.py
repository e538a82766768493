"""The two ways in which grids change size (golden README, 1.6 and 1.9). Planes: [images, channels, h, w]."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from service.model.schedule import Scale


def resize(planes: Tensor, scale: Scale) -> Tensor:
    """Bilinear, without corner alignment or anti-aliasing, also when it shrinks."""
    size = (scale.height, scale.width)
    if planes.shape[-2:] == size:
        return planes
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def pool(planes: Tensor, scale: Scale) -> Tensor:
    """The mean over each cell of a coarser grid: how the quantiser looks at a residual."""
    size = (scale.height, scale.width)
    return planes if planes.shape[-2:] == size else F.interpolate(planes, size=size, mode="area")
