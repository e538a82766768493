"""What a batch takes beside the weights, in bytes: arithmetic on a configuration, no model is needed.

Of stylised images, each of two paths and, while there is guidance, two halves: four rows, of which the
content path's two keep keys. An upper bound for so many images: texts of full length, partial images
requested. tests/model/switti/test_memory.py measures it.
"""

from __future__ import annotations

import torch

from service.model.decoder_memory import whole_bytes
from service.model.device.step_graphs import MAX_TOKENS
from service.model.schedule import Scale
from service.model.switti.config import SwittiConfig
from service.model.switti.sampling import is_smooth
from service.model.switti.schedules import square_scales

_FULL = 4  # bytes of an fp32 number
_ROWS, _OWN_ROWS, _PATHS, _TEXTS = 4, 2, 2, 2  # of one stylised image
# Tensors of a row's width that are alive at once in a block's widest moment: the sums between layers and what
# is derived from them in fp32, and what the block's matrices read and write in their own precision. There the
# feed-forward is widest: the gate before and after its activation function, which on a CPU is computed row by
# row and put together, and the other half.
_BETWEEN_LAYERS, _WIDE_LAYERS = 3, 3
# Tensors of a path's scores, fp32, that are alive at once beside those of its rows: to draw from, to guide,
# and to mix codes, for which there is noise as well.
_DRAWN, _GUIDED, _MIXED = 3, 4, 7
# Modulations [layers, 6, channels] of a text or row: of the texts, and of three selections of the rows.
_MODULATIONS = 6
# Scores of the decoder's attention between all cells, where it is computed at once.
_CELL_SCORES = 2
# What the libraries take for themselves, whatever the batch.
_LIBRARIES = 32 * 2**20


def batch_bytes(
    config: SwittiConfig, num_images: int, dtype: torch.dtype, *, decodes_beside: bool = False
) -> int:
    """The most that a batch takes; `dtype` is that of the blocks and the image decoder.

    The cache lives from the first step to the last, beside the widest step or a partial image; with
    `decodes_beside`, also beside the decoding of the batch before.
    """
    scales = square_scales(config.grids)
    widest = max(_step_bytes(config, step, num_images, dtype) for step in range(1, len(scales) + 1))
    partial, decoding = (decoding_bytes(config, scale, dtype) for scale in scales[-2:])
    steps = cache_bytes(config, num_images, dtype) + max(widest, partial)
    return _LIBRARIES + (steps + decoding if decodes_beside else max(steps, decoding))


def cache_bytes(config: SwittiConfig, num_images: int, dtype: torch.dtype) -> int:
    """Keys and values, of texts and in the causal variant of images, and modulations."""
    shape = config.transformer
    num_tokens = sum(scale.num_tokens for scale in square_scales(config.grids))
    of_images = num_tokens * (_ROWS + _OWN_ROWS) if shape.is_causal else 0
    of_texts = _TEXTS * 2 * shape.max_text_tokens
    modulations = _FULL * 6 * (_TEXTS + _MODULATIONS * _PATHS)
    return num_images * shape.depth * shape.width * (dtype.itemsize * (of_images + of_texts) + modulations)


def _step_bytes(config: SwittiConfig, step: int, num_images: int, dtype: torch.dtype) -> int:
    """Activations of one step."""
    shape, num_tokens = config.transformer, config.grids[step - 1] ** 2
    is_guided, is_last = step <= config.sampling.num_guided_steps, step == len(config.grids)
    num_rows = _ROWS if is_guided else _PATHS
    num_paths = 1 if is_last else _PATHS  # that the last layer leaves: at the end those that are drawn
    inside = dtype.itemsize * (shape.width + _WIDE_LAYERS * shape.feedforward_width)
    layer = num_rows * (_FULL * _BETWEEN_LAYERS * shape.width + inside)
    each = _MIXED if is_smooth(config.sampling, step) else _GUIDED if is_guided else _DRAWN
    num_scores = num_paths * (each + 1 + is_guided)
    drawing = _FULL * config.tokenizer.num_codes * num_scores
    return num_images * num_tokens * max(layer, drawing + _FULL * num_rows * shape.width)


def captured_step_bytes(config: SwittiConfig, dtype: torch.dtype) -> int:
    """Activations of a step that is run by a graph, which keeps them between batches."""
    shape = config.transformer
    inside = dtype.itemsize * (shape.width + _WIDE_LAYERS * shape.feedforward_width)
    layer = _FULL * _BETWEEN_LAYERS * shape.width + inside
    return MAX_TOKENS * (layer + _FULL * config.tokenizer.num_codes * _GUIDED)


def decoding_bytes(config: SwittiConfig, scale: Scale, dtype: torch.dtype) -> int:
    """Of one image, which is how they are decoded."""
    attention = _CELL_SCORES * dtype.itemsize * scale.num_tokens**2
    return max(whole_bytes(config.tokenizer, scale, dtype), attention)
