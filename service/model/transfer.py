"""Between the host and a device without waiting for what the device is doing.

A plain copy, and indexing with a list, which copies it, wait for everything that was launched before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device; what is launched there next finds it."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)


def places(indices: Sequence[int], device: torch.device) -> Tensor:
    """Indices to index a tensor on that device with."""
    return send(torch.tensor(indices, dtype=torch.int64), device)


class Fetched:
    """Copies of a device's tensors on their way to the host. Any thread may wait for them."""

    def __init__(self, *tensors: Tensor) -> None:
        """The tensors are on one device. What is launched there next does not disturb the copies."""
        self._copies = [each.to("cpu", non_blocking=True) for each in tensors]  # from a GPU: to pinned memory
        self._arrival: torch.cuda.Event | None = None
        self._device = tensors[0].device
        if self._device.type == "cuda":
            self._arrival = torch.cuda.Event(blocking=True)  # who waits leaves the core to others
            self._arrival.record(torch.cuda.current_stream(self._device))

    @property
    def is_there(self) -> bool:
        """Whether `tensors` need not wait."""
        return self._arrival is None or self._arrival.query()

    def tensors(self) -> list[Tensor]:
        """The copies, once they are whole."""
        if self._arrival is not None:
            with torch.cuda.device(self._device):
                self._arrival.synchronize()
        return self._copies
