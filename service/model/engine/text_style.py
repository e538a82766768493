"""A style from words alone (paper, Fig. 14; method.md, 4): a path of the style's own, up to the key step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.model.backbone import Backbone
from service.model.engine.types import Path
from service.model.schedule import Schedule


def imagined_bits(
    backbone: Backbone[Any], prompt: str, seed: int, schedule: Schedule, num_steps: int
) -> NDArray[np.uint8]:
    """Bits [tokens, channels] of the first steps of the plain image of this prompt and seed.

    FloatingPointError when the model's logits are not finite.
    """
    path = Path(backbone.encode_text(prompt), None, (backbone.guidance,) * num_steps)
    # Only these scales need room in the cache: of the 2.8 GB a row takes on Infinity-2B, 6 MB.
    cache = backbone.begin([path], replace(schedule, scales=schedule.scales[:num_steps]))
    generator = torch.Generator().manual_seed(seed)
    extent = backbone.feature_grids(schedule)[-1]
    feature = torch.zeros(1, backbone.channels, extent.height, extent.width, device=backbone.device)
    bits = []
    for step in range(1, num_steps + 1):
        noise = backbone.noise(generator, schedule, step)[None]
        logits = backbone.predict(cache, step, feature)
        if not torch.isfinite(logits).all():
            raise FloatingPointError("the model gave logits that are not finite")
        codes = backbone.sample(logits, noise, schedule, step)
        feature = backbone.accumulate(feature, codes, schedule, step)
        bits.append((codes[0] > 0).flatten(1).T)
    return torch.cat(bits).to(torch.uint8).cpu().numpy()
