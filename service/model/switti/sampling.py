"""From logits to codes: guidance, top-k and top-p, and the smooth mixture (golden README, 6).

Logits are [rows, tokens, codes] fp32. Steps count from 1; `ratio` is 0 at the first and 1 at the last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.model.device.linear import linear
from service.model.switti.by_row import by_row
from service.model.switti.config import SamplingConfig
from service.model.switti.noise import Noise

# Of the mixture's temperature: its start, what it falls to in proportion, and the least it may be.
_SMOOTH_TEMPERATURE, _SMOOTH_FALL, _SMOOTH_LEAST = 0.27, 0.95, 0.005


def ratio_of(step: int, num_steps: int) -> float:
    return (step - 1) / (num_steps - 1)


def guidance_of_steps(sampling: SamplingConfig, num_steps: int) -> tuple[float, ...]:
    """The weight of the conditional logits at each step; 1 is no guidance."""
    return tuple(
        1 + sampling.guidance_growth * ratio_of(step, num_steps) if step <= sampling.num_guided_steps else 1.0
        for step in range(1, num_steps + 1)
    )


def guided(conditional: Tensor, unconditional: Tensor, guidance: float | Tensor) -> Tensor:
    """guidance * conditional + (1 - guidance) * unconditional."""
    return guidance * conditional + (1 - guidance) * unconditional


def temperature_at(sampling: SamplingConfig, step: int) -> float:
    return 1.0 if step <= sampling.num_guided_steps else sampling.last_temperature


def is_smooth(sampling: SamplingConfig, step: int) -> bool:
    """Whether a step mixes codes instead of drawing one."""
    start = sampling.smooth_start_step
    return start is not None and start <= step <= sampling.num_guided_steps


def draw_tokens(logits: Tensor, noise: Noise, *, top_k: int, top_p: float) -> Tensor:
    """Tokens [rows, tokens] int64: argmax(p / q) with exponential q, as torch's multinomial draws.

    The `top_k` most likely codes stay, and of these, from the least likely on, those go that add up to no
    more than 1 - top_p. 0 turns either off; top-k of 1 is greedy. Of several codes that are equally likely
    at the bound of top-k the reference keeps all; here as many stay as there is room for.
    """
    if top_k == 1:
        return logits.argmax(-1)
    num_codes = logits.shape[-1]
    values, codes = logits.topk(min(top_k or num_codes, num_codes), dim=-1)  # descending
    p = values.softmax(-1)
    if top_p > 0:
        tail = p.flip(-1).cumsum(-1).flip(-1)  # each with all that are less likely
        removed = tail <= 1 - top_p
        removed[..., 0] = False
        p = p.masked_fill(removed, 0.0)
    drawn = (p / noise.of(codes)).argmax(-1, keepdim=True)
    return codes.gather(-1, drawn)[..., 0]


def couple_tokens(logits: Tensor, reference: Tensor, picture: Tensor, noise: Noise) -> Tensor:
    """Tokens [rows, tokens] int64 that stay near to a picture's, under logits [rows, tokens, codes].

    argmax(p / q) is the first of arrivals at the times q / p. That the picture's code came first under the
    `reference` logits, at the exponential time T, says of any other that it came at T + q' / p, with q' fresh
    noise. Under `logits` each time is divided by the ratio of the probabilities: under equal ones the
    picture's code is first again, exactly. Top-k and top-p are left out: they cut draws from the tails, and
    here an unlikely code is the picture's own. In logarithms, as probabilities underflow.
    """
    fresh = by_row(torch.log, noise.of_all(*logits.shape[1:]))
    log_p, first = reference.log_softmax(-1), picture[..., None]
    log_time = fresh.gather(-1, first)
    log_arrival = torch.logaddexp(log_time, fresh - log_p).scatter(-1, first, log_time)
    scores = logits.log_softmax(-1) - log_p - log_arrival
    best, tokens = scores.max(-1, keepdim=True)
    return torch.where(scores.gather(-1, first) >= best, first, tokens)[..., 0]


def mix_codes(logits: Tensor, noise: Noise, codebook: Tensor, ratio: float) -> Tensor:
    """Soft draws [rows, tokens, channels]: codes [codes, channels] weighted by a Gumbel softmax.

    The reference's `more_smooth`. Logits count for more and the temperature falls from scale to scale.
    """
    temperature = max(_SMOOTH_TEMPERATURE * (1 - ratio * _SMOOTH_FALL), _SMOOTH_LEAST)
    gumbel = -by_row(torch.log, noise.of_all(*logits.shape[1:]))
    weights = ((logits * (1 + ratio) + gumbel) / temperature).softmax(-1)
    # Kernels that never split a long sum among threads, which would round by the number of rows.
    return linear(weights, codebook.T, is_large=True)


def draw_codes(
    logits: Tensor, noise: Noise, codebook: Tensor, sampling: SamplingConfig, step: int, num_steps: int
) -> Tensor:
    """Codes [rows, tokens, channels] of a step, from guided logits at their `temperature_at`."""
    if is_smooth(sampling, step):
        return mix_codes(logits, noise, codebook, ratio_of(step, num_steps))
    return codebook[draw_tokens(logits, noise, top_k=sampling.top_k, top_p=sampling.top_p)]


def scaled(logits: Tensor, sampling: SamplingConfig, step: int) -> Tensor:
    """Logits at the step's temperature."""
    temperature = temperature_at(sampling, step)
    return logits if temperature == 1.0 else torch.div(logits, temperature)
