"""From the host to a device without waiting for what the device is doing.

A plain copy, and indexing with a list, which copies it, wait for everything that was launched before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on the device; what is launched there next finds it."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def places(indices: Sequence[int], device: torch.device) -> Tensor:
    """Indices to index a tensor on that device with."""
    return send(torch.tensor(indices, dtype=torch.int64), device)
