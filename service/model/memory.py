"""How many images fit beside the resident weights."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from service.model.backbone import Backbone, Schedule

# Share of the free memory that a batch may take; the rest is for activations of the libraries, the decoder's
# workspace and, on a CPU, for everybody else.
_SHARE = 0.6
# Beyond this many images a batch gains nothing on any device measured, and its first job waits for its last.
_MOST_IMAGES = 16


def max_images(backbone: Backbone[Any], schedule: Schedule) -> int:
    """Stylised images, of two paths and two guidance halves each, that one batch may hold: at least 1."""
    bytes_per_image = 4 * backbone.bytes_per_row(schedule)
    return max(1, min(_MOST_IMAGES, int(free_bytes(backbone.device) * _SHARE) // bytes_per_image))


def free_bytes(device: torch.device) -> int:
    """What a batch could take: on a GPU also what torch's allocator holds without using it."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return int(psutil.virtual_memory().available)
