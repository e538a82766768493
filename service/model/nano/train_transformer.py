"""Training nano's transformer and text encoder: a scale's bits from the scales before it and the caption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer as WordTokenizer
from torch import Tensor, nn
from transformers import T5EncoderModel

from service.model.infinity.cache import pad_texts
from service.model.infinity.rope import rotations
from service.model.infinity.tokenizer import Tokenizer, codes_from_bits
from service.model.infinity.transformer import Transformer
from service.model.nano.captions import caption
from service.model.nano.muon import muon_and_adam
from service.model.nano.recipe import CONFIG, GRIDS, SCHEDULE, Recipe
from service.model.nano.scene import Scene
from service.model.nano.train_tokenizer import as_images
from service.model.nano.trainer import Run
from service.model.nano.words import untrained_encoder, write_vocabulary
from service.model.resize import pool, resize

_UNKNOWN_WORDS = 0.15  # share of captions with a word the vocabulary lacks, so that such words do no harm


def encode_corpus(folder: Path, tokenizer: Tokenizer, pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Encoder outputs of every picture, [images, bits, 8, 8]: the transformer never runs the encoder."""
    file = folder / "features.npy"
    if not file.exists():
        with torch.no_grad():
            parts = [
                tokenizer.encode(as_images(np.array(pictures[start : start + 64]))).half().numpy()
                for start in range(0, len(pictures), 64)
            ]
        np.save(file, np.concatenate(parts))
    features: NDArray[np.float16] = np.load(file)
    return features


class Pair(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.transformer = Transformer(CONFIG.transformer, CONFIG.bits_per_token)
        self.text_encoder = untrained_encoder(num_words, CONFIG.transformer.text_channels)


def train_transformer(
    folder: Path, features: NDArray[np.float16], scenes: Sequence[Scene], recipe: Recipe
) -> tuple[Transformer, T5EncoderModel]:
    """Train to the recipe's number of steps; returns the averaged weights of both networks."""
    torch.manual_seed(recipe.seed + 1)
    pair = Pair(write_vocabulary(folder / "text_encoder"))
    _initialise(pair.transformer)
    words = WordTokenizer.from_file(str(folder / "text_encoder" / "tokenizer.json"))
    run = Run("transformer", folder, pair, _optimisers(pair, recipe), recipe.average, recipe.checkpoint_every)
    attention = _BlockCausal()
    while run.step < recipe.transformer_steps:
        rng = np.random.default_rng([recipe.seed, 3, run.step])
        chosen = rng.choice(len(features), recipe.transformer_batch, replace=False)
        captions = [_with_unknown(caption(scenes[index], rng), rng) for index in chosen]
        torch.manual_seed(int(rng.integers(2**31)))
        inputs, labels = corrected_scales(torch.from_numpy(features[chosen]).float(), recipe.max_flips)
        texts = _encode(pair, words, captions, rng.random(len(chosen)) < recipe.dropped_text)
        by_scale, accuracy = attention.losses(pair.transformer, texts, inputs, labels)
        loss = torch.cat([each / side for side, each in by_scale], dim=1).sum() / sum(
            each.shape[1] / side * len(chosen) for side, each in by_scale
        )
        losses = {"loss": loss.item(), "last_accuracy": accuracy}
        run.descend(loss, recipe.transformer_steps, recipe.flat_share, losses)
    run.load_average()
    return pair.transformer, pair.text_encoder


def corrected_scales(h: Tensor, max_flips: float) -> tuple[list[Tensor], list[Tensor]]:
    """Bitwise self-correction (Infinity, section 3.4): inputs of each scale after the first, and all labels.

    At each scale some bits of what the model sees are flipped, and the labels of the scales after it correct
    the error. inputs: [images, bits, h, w] of scales 2..S; labels: [images, bits, h, w] bool of scales 1..S.
    """
    residual, feature = h, torch.zeros_like(h)
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    for index, grid in enumerate(GRIDS):
        bits = pool(residual, grid) > 0
        labels.append(bits)
        if index + 1 < len(GRIDS):
            rate = torch.rand(len(h), 1, 1, 1) * max_flips
            code = resize(codes_from_bits(bits ^ (torch.rand(bits.shape) < rate)), GRIDS[-1])
            residual, feature = residual - code, feature + code
            inputs.append(resize(feature, GRIDS[index + 1]))
    return inputs, labels


class _BlockCausal:
    """Teacher forcing: all scales at once, each attending to itself and to those before it."""

    def __init__(self) -> None:
        scale = torch.cat(
            [torch.full((each.num_tokens,), index) for index, each in enumerate(SCHEDULE.scales)]
        )
        self.scale = scale
        self.mask = scale[:, None] >= scale[None]
        self.rotation = rotations(SCHEDULE, CONFIG.transformer.head_width, torch.device("cpu"))

    def losses(
        self,
        transformer: Transformer,
        texts: Sequence[Tensor],
        inputs: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> tuple[list[tuple[int, Tensor]], float]:
        """A side and token losses [images, tokens] for each scale; and the accuracy on the last."""
        padded, text_mask = pad_texts(texts, max(map(len, texts)))
        normed = transformer.text_norm(padded)
        pooled = transformer.pool(normed, text_mask)
        tokens = transformer.text_in(normed)
        start = pooled[:, None] + transformer.start
        later = transformer.code_in(torch.cat([each.flatten(2).transpose(1, 2) for each in inputs], dim=1))
        x = torch.cat([start, later], dim=1) + transformer.scale_embedding(self.scale)
        condition = transformer.condition(pooled)
        for block in transformer.blocks:
            keys, values = block.text_attention.keys_values(tokens)  # type: ignore[operator, union-attr]

            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=1.0)

            def read_text(q: Tensor, keys: Tensor = keys, values: Tensor = values) -> Tensor:
                return F.scaled_dot_product_attention(q, keys, values, attn_mask=text_mask[:, None, None])

            x = block(x, condition, self.rotation, len(x), attend, read_text)
        logits = transformer.logits(x, pooled)
        losses, offset, accuracy = [], 0, 0.0
        for scale, label in zip(SCHEDULE.scales, labels, strict=True):
            part = logits[:, offset : offset + scale.num_tokens]
            target = label.flatten(2).transpose(1, 2)  # [images, tokens, bits]
            margin = part[..., 1] - part[..., 0]
            loss = F.binary_cross_entropy_with_logits(margin, target.float(), reduction="none").mean(-1)
            losses.append((scale.height, loss))
            offset += scale.num_tokens
            accuracy = ((margin > 0) == target).float().mean().item()
        return losses, accuracy


def _encode(
    pair: Pair, words: WordTokenizer, captions: Sequence[str], dropped: NDArray[np.bool_]
) -> list[Tensor]:
    ids = [words.encode(each).ids for each in captions]
    longest = max(map(len, ids))
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids])
    padded = torch.tensor([each + [0] * (longest - len(each)) for each in ids])
    hidden = pair.text_encoder(input_ids=padded, attention_mask=mask).last_hidden_state
    return [
        pair.transformer.unconditional_text[: len(each)] if drop else hidden[index, : len(each)]
        for index, (each, drop) in enumerate(zip(ids, dropped, strict=True))
    ]


def _with_unknown(text: str, rng: np.random.Generator) -> str:
    if rng.random() >= _UNKNOWN_WORDS:
        return text
    parts = text.split()
    parts.insert(int(rng.integers(len(parts) + 1)), "zyx")
    return " ".join(parts)


def _initialise(transformer: Transformer) -> None:
    for block in transformer.blocks:  # every branch starts silent, gates open
        nn.init.normal_(block.modulation, std=0.02)  # type: ignore[arg-type]
        block.modulation.data[:, :, :2] += 1.0  # type: ignore[operator, index]
        for branch in (block.attention, block.text_attention):
            nn.init.zeros_(branch.out.weight)  # type: ignore[union-attr, arg-type]
        nn.init.zeros_(block.feedforward.down.weight)  # type: ignore[union-attr, arg-type]
    for quiet in (transformer.modulation, transformer.head_modulation, transformer.head):
        nn.init.normal_(quiet.weight, std=0.01)
        nn.init.zeros_(quiet.bias)
    nn.init.normal_(transformer.scale_embedding.weight, std=0.02)


def _optimisers(pair: Pair, recipe: Recipe) -> list[torch.optim.Optimizer]:
    return muon_and_adam(
        pair,
        lambda name, matrix: ".blocks." in name and matrix.dim() == 2,
        muon_rate=recipe.matrix_rate,
        momentum=0.95,
        adam_rate=recipe.adam_rate,
        weight_decay=0.0,
    )
