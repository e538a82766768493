"""A style from text alone (paper, Fig. 14): a path of the style's own prompt, up to the key step."""

from __future__ import annotations

import torch

from service.model.backbone import AnyBackbone
from service.model.engine.types import Path
from service.model.schedule import Schedule
from service.model.style.tokens import StyleTokens


def tokens_of_text(backbone: AnyBackbone, prompt: str, seed: int, schedule: Schedule) -> StyleTokens:
    """The tokens of the plain image of this prompt and seed, up to the key step.

    Only these steps need room in the cache: of the 2.8 GB that a row takes on Infinity-2B, 6 MB.
    FloatingPointError when the model's logits are not finite.
    """
    num_steps = backbone.key_step
    guidance = backbone.guidance_of_steps(backbone.guidance, len(schedule.scales))[:num_steps]
    cache = backbone.begin([Path(backbone.encode_texts([prompt])[0], None, guidance)], schedule, num_steps)
    noise = backbone.noise([seed], schedule, num_steps)
    features = backbone.empty_features(cache)
    codes_of_steps = []
    for step in range(1, num_steps + 1):
        logits = backbone.predict(cache, features, step)
        codes = backbone.sample(cache, logits, noise, step)
        features = backbone.accumulate(cache, features, codes, step)
        codes_of_steps.append(codes)
    require_finite(cache.is_finite)
    return backbone.tokens_of_codes(codes_of_steps)


def require_finite(is_finite: torch.Tensor) -> None:
    """FloatingPointError unless all logits of a batch were finite; waits for the device."""
    if not is_finite:
        raise FloatingPointError("the model gave logits that are not finite")
