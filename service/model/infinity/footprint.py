"""What a batch takes beside the weights, in bytes: arithmetic on a configuration, no model is needed.

Of stylised images, each of two paths and two guidance halves: four rows, of which the content path's two keep
keys (Structural Attention Correction spares the others theirs). Everything is what the largest batch of that
many images can take: texts of full length, partial images asked for. tests/test_footprint.py measures it.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.model.backbone import Schedule
from service.model.infinity.config import InfinityConfig, TokenizerConfig

_FULL = 4  # bytes of an fp32 number
_ROWS, _OWN_ROWS = 4, 2  # of one stylised image

# Tensors of a row's width that are alive at once in a block's widest moment: the sums between layers and what
# is derived from them in fp32, and what the block's matrices read and write: the feed-forward's hidden layer
# before and after its activation function. Attention has as many, and a copy of the keys besides.
_BETWEEN_LAYERS, _INSIDE_BLOCK = 5, 8

# The decoder's largest tensors that are alive at once: in torch's own count 3.75. On the CPU the convolutions
# keep reordered copies, which torch does not count; on a GPU they have a workspace.
_DECODER_TENSORS = {"cpu": 8.0, "cuda": 5.0}

# What the libraries take for themselves, whatever the batch.
_LIBRARIES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of one batch. The cache lives from the first step to the last, beside one of the others at a time."""

    cache: int  # keys and values, of images and texts
    step: int  # activations of the widest step
    partial: int  # decoding a partial image
    decoding: int  # when the cache is gone

    @property
    def peak(self) -> int:
        return _LIBRARIES + max(self.cache + max(self.step, self.partial), self.decoding)


def footprint(
    config: InfinityConfig, schedule: Schedule, num_images: int, *, block_bytes: int, device: str
) -> Footprint:
    """`block_bytes` is the size of a number in the blocks and in their cache; `device` is cpu or cuda."""
    shape, num_tokens = config.transformer, schedule.num_tokens
    widest = max(scale.num_tokens for scale in schedule.scales)
    inside = block_bytes * (_INSIDE_BLOCK * widest + num_tokens)
    step = _ROWS * num_images * shape.width * (_FULL * _BETWEEN_LAYERS * widest + inside)
    # Decoded one by one on the CPU, together on a GPU.
    decoding = decoder_bytes(config.tokenizer, schedule, device) * (1 if device == "cpu" else num_images)
    before_last = schedule.scales[-2].num_tokens / schedule.scales[-1].num_tokens
    return Footprint(
        cache=block_bytes * cached_numbers(config, schedule, num_images),
        step=step,
        partial=int(decoding * before_last),
        decoding=decoding,
    )


def cached_numbers(config: InfinityConfig, schedule: Schedule, num_images: int) -> int:
    """Numbers in the cache of a batch: keys of the rows that attend by themselves, values of every row, and
    both for every row's text."""
    shape = config.transformer
    of_images = schedule.num_tokens * (_ROWS + _OWN_ROWS)
    of_texts = shape.max_text_tokens * 2 * _ROWS
    return shape.depth * shape.width * num_images * (of_images + of_texts)


def decoder_bytes(config: TokenizerConfig, schedule: Schedule, device: str) -> int:
    """Workspace of decoding one image."""
    num_pixels = schedule.size.width * schedule.size.height
    # A level's width is met at its own resolution and, behind its upsampling, at the next finer one.
    largest = max(multiplier / 4 ** max(level - 1, 0) for level, multiplier in enumerate(config.multipliers))
    return int(_DECODER_TENSORS[device] * _FULL * num_pixels * config.channels * largest)
