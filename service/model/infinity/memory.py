"""What a batch takes beside the weights, in bytes: arithmetic on a configuration, no model is needed.

Of stylised images, each of two paths and two guidance halves: four rows, of which the content path's two keep
keys (Structural Attention Correction spares the others theirs). All are upper bounds for so many images:
texts of full length, partial images requested. tests/model/infinity/test_memory.py measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from service.model.device.step_graphs import MAX_TOKENS, most_row_tokens
from service.model.infinity.config import InfinityConfig
from service.model.infinity.decoding import workspace_bytes
from service.model.schedule import Scale, Schedule

_FULL = 4  # bytes of an fp32 number
_ROWS, _OWN_ROWS, _TEXTS = 4, 2, 2  # of one stylised image
# Tensors of a row's width that are alive at once in a block's widest moment: the sums between layers and what
# is derived from them in fp32, and what the block's matrices read and write: the feed-forward's hidden layer
# before and after its activation function. Attention has as many, and a copy of the keys besides.
_BETWEEN_LAYERS, _INSIDE_BLOCK = 5, 8
# What the libraries take for themselves, whatever the batch.
_LIBRARIES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of one batch. The cache lives from the first step to the last, beside one of the others at a time, and
    beside the decoding of the batch before where another thread does that."""

    cache: int  # keys and values, of images and texts
    step: int  # activations of the widest step
    partial: int  # decoding partial images
    decoding: int  # when the cache is gone

    @property
    def peak(self) -> int:
        return _LIBRARIES + max(self._steps, self.decoding)

    @property
    def peak_of_two(self) -> int:
        """While another batch is decoded."""
        return _LIBRARIES + self._steps + self.decoding

    @property
    def _steps(self) -> int:
        return self.cache + max(self.step, self.partial)


def footprint(
    config: InfinityConfig,
    schedule: Schedule,
    num_images: int,
    dtype: torch.dtype,
    num_at_once: Callable[[Scale], int],
) -> Footprint:
    """`dtype` is that of the blocks and the image decoder; `num_at_once` says for a tokenizer's grid how many
    images are decoded together, 0 for strips."""
    shape = config.transformer
    widest = max(scale.num_tokens for scale in schedule.scales)
    inside = dtype.itemsize * (_INSIDE_BLOCK * widest + schedule.num_tokens)

    def decoding(scale: Scale) -> int:
        grid = scale.times(config.patch)
        together = num_at_once(grid)
        image = workspace_bytes(config.tokenizer, grid, dtype, in_strips=together == 0)
        return image * max(1, min(together, num_images))

    return Footprint(
        cache=dtype.itemsize * cached_numbers(config, schedule, num_images),
        step=_ROWS * num_images * shape.width * (_FULL * _BETWEEN_LAYERS * widest + inside),
        partial=decoding(schedule.scales[-2]),
        decoding=decoding(schedule.scales[-1]),
    )


def captured_step_bytes(config: InfinityConfig, dtype: torch.dtype) -> int:
    """Activations of a step that is run by a graph, which keeps them between batches."""
    shape, known = config.transformer, most_row_tokens(config.schedules().values())
    inside = dtype.itemsize * (_INSIDE_BLOCK * MAX_TOKENS + known)
    return shape.width * (_FULL * _BETWEEN_LAYERS * MAX_TOKENS + inside)


def cached_numbers(config: InfinityConfig, schedule: Schedule, num_images: int) -> int:
    """Numbers in the cache of a batch: keys of the rows that attend by themselves, values of every row, and
    for each image two texts, in the largest of their forms (`TextAttention.reader`, `PaddedTexts`)."""
    shape = config.transformer
    of_images = schedule.num_tokens * (_ROWS + _OWN_ROWS)
    of_texts = _TEXTS * 2 * max(shape.max_text_tokens, shape.width // 2)
    return shape.depth * shape.width * num_images * (of_images + of_texts)
