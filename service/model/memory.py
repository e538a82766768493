"""How many images fit beside the resident weights."""

from __future__ import annotations

import os
from typing import Any

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
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
