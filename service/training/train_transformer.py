"""Training nano's transformer and text encoder: a scale's bits from the scales before it and the caption."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer as WordTokenizer
from torch import Tensor, nn
from transformers import T5EncoderModel

from service.model.engine.generator import Generator
from service.model.infinity.backbone import Infinity
from service.model.infinity.rope import rotations
from service.model.infinity.t5 import TextEncoder
from service.model.infinity.tokenizer import Tokenizer, codes_from_bits
from service.model.infinity.transformer import Block, TextAttention, Transformer
from service.model.layers import merge_heads, split_heads
from service.model.nano.words import THINGS, VOCABULARY, untrained_encoder, write_vocabulary
from service.model.style.resize import pool, resize
from service.model.text_layers import pad_texts
from service.training.captions import caption
from service.training.corpus import Pictures
from service.training.muon import muon_and_adam
from service.training.recipe import CONFIG, GRIDS, SCHEDULE, Recipe
from service.training.scene import Scene
from service.training.sheets import as_images, save_samples
from service.training.sprites import Sprites
from service.training.trainer import Compute, Run, Session, Stopped, load_average

_ENCODED = 128  # pictures at once
_TEXT_TOKENS = 28  # captions are padded to so many, so that shapes stay the same; a longer one is longer
_UNKNOWN_WORDS = 0.1  # share of captions with words the vocabulary lacks, so that such words do no harm


def encode_corpus(session: Session, tokenizer: Tokenizer, pictures: Pictures) -> NDArray[np.float16]:
    """Encoder outputs of every picture, [images, bits, 8, 8]: the transformer never runs the encoder."""
    file = session.folder / "features.npy"
    if not file.exists():
        device = session.compute.device
        parts = []
        with torch.no_grad(), session.compute.autocast():
            for at in range(0, len(pictures), _ENCODED):
                images = as_images(np.array(pictures[at : at + _ENCODED])).to(device)
                parts.append(
                    tokenizer.encode(images.contiguous(memory_format=torch.channels_last)).half().cpu()
                )
                session.report("encoding", at / len(pictures), "")
                if session.stopped():
                    raise Stopped("encoding")
        unfinished = file.with_suffix(".new.npy")
        np.save(unfinished, torch.cat(parts).numpy())
        unfinished.replace(file)
    features: NDArray[np.float16] = np.load(file)
    return features


class Pair(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.transformer = Transformer(CONFIG.transformer, CONFIG.bits_per_token)
        self.text_encoder = untrained_encoder(num_words, CONFIG.transformer.text_channels)


def train_transformer(
    session: Session,
    features: NDArray[np.float16],
    scenes: Sequence[Scene],
    tokenizer: Tokenizer,
    recipe: Recipe,
) -> tuple[Transformer, T5EncoderModel]:
    """Train for the recipe's minutes; returns the averaged weights of both networks."""
    compute, folder = session.compute, session.folder
    torch.manual_seed(recipe.seed + 1)
    pair = _untrained(session)
    words = WordTokenizer.from_file(str(folder / "text_encoder" / "tokenizer.json"))
    describe_things(pair.text_encoder.shared, words, Sprites.load(folder))
    run = Run(
        "transformer",
        session,
        pair,
        _optimisers(pair, recipe, compute),
        minutes=recipe.transformer_minutes,
        flat_share=recipe.transformer_flat_share,
        decay=recipe.transformer_average,
    )
    lesson = _Lesson(pair, words, compute, compiles=session.compiles)
    while not run.is_done:
        rng = np.random.default_rng([recipe.seed, 3, run.step])
        chosen = rng.integers(len(features), size=recipe.transformer_batch)
        captions = [_with_unknown(caption(scenes[index], rng), rng) for index in chosen]
        torch.manual_seed(int(rng.integers(2**31)))
        h = torch.from_numpy(features[chosen]).float()
        inputs, labels = corrected_scales(h, recipe.max_flips)
        dropped = rng.random(len(chosen)) < recipe.dropped_text
        # Which thing it is shows in the coarse scales, most of the tokens are in the last.
        num_last = (
            recipe.sampled_tokens if run.share < recipe.sampled_share else SCHEDULE.scales[-1].num_tokens
        )
        by_scale, accuracy = lesson.losses(captions, dropped, inputs, labels, num_last)
        loss = torch.cat([of_tokens / side for side, of_tokens in by_scale], dim=1).sum() / sum(
            of_tokens.shape[1] / side * len(chosen) for side, of_tokens in by_scale
        )
        losses = {"loss": loss.item(), "last_accuracy": accuracy}
        losses |= {f"scale_{side}": of_tokens.mean().item() for side, of_tokens in by_scale}
        run.descend(loss, losses)
        if run.is_sheet_due(recipe.sheet_minutes):
            with run.averaged():
                model = Infinity(
                    CONFIG, pair.transformer, tokenizer, TextEncoder(words, pair.text_encoder), fingerprint=""
                )
                file = folder / "sheets" / f"transformer_{run.step:05d}.png"
                save_samples(file, Generator(model), recipe.seed)
    run.load_average()
    return pair.transformer, pair.text_encoder


@torch.no_grad()
def describe_things(embedding: nn.Embedding, words: WordTokenizer, sprites: Sprites) -> None:
    """Start each thing's word as what the thing looks like, so that what is learnt of one serves all others.

    A word's vector is its sprite in coarse pixels, in the coordinates of the things' principal components:
    one smooth map from vectors to pictures is learnt much sooner than hundreds of names one by one.
    """
    looks = torch.from_numpy(_coarse(sprites)).float()
    looks = looks - looks.mean(0)
    left, strengths, _ = torch.linalg.svd(looks, full_matrices=False)
    num = min(embedding.embedding_dim, len(strengths))
    # Between the components' own sizes and equal ones: fine differences tell things apart, too.
    vectors = torch.zeros(len(looks), embedding.embedding_dim)
    vectors[:, :num] = left[:, :num] * strengths[:num].sqrt()
    vectors = vectors / vectors.square().mean().sqrt()
    known = dict(zip(sprites.names, vectors, strict=True))
    meanings: dict[str, list[Tensor]] = defaultdict(list)
    for thing in THINGS:
        parts = thing.name.split()
        for word in (*parts, *thing.synonyms):
            # A bear is a bear, whatever else a teddy bear is.
            meanings[word].append(known[VOCABULARY[word]] if VOCABULARY[word] in known else known[thing.name])
    for word, vectors_of_word in meanings.items():
        token = words.token_to_id(word)
        embedding.weight[token] = torch.stack(vectors_of_word).mean(0).to(embedding.weight)


def _coarse(sprites: Sprites, side: int = 8) -> NDArray[np.float32]:
    """Colours over grey, coverage and lines of each thing: [things, 5 * side * side]."""

    def reduced(levels: NDArray[np.float32]) -> NDArray[np.float32]:
        cell = levels.shape[1] // side
        return levels.reshape(len(levels), side, cell, side, cell, -1).mean((2, 4)).reshape(len(levels), -1)

    flat, ink = (sprite.astype(np.float32) / np.float32(255) for sprite in (sprites.flat, sprites.ink))
    coverage = flat[..., 3:]
    return np.concatenate(
        [reduced((flat[..., :3] - np.float32(0.5)) * coverage), reduced(coverage), reduced(ink[..., 3:])],
        axis=1,
    )


def load_transformer(session: Session) -> tuple[Transformer, T5EncoderModel, float]:
    """The averages of a training that has begun, and the seconds that it has had."""
    pair = _untrained(session)
    seconds = load_average(session.folder / "transformer.pt", pair)
    return pair.transformer, pair.text_encoder, seconds


def _untrained(session: Session) -> Pair:
    pair = Pair(write_vocabulary(session.folder / "text_encoder"))
    _initialise(pair.transformer)
    return pair.to(session.compute.device)


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


class _Lesson:
    """Teacher forcing: all scales at once, each attending to itself and to those before it."""

    def __init__(self, pair: Pair, words: WordTokenizer, compute: Compute, *, compiles: bool) -> None:
        self.pair, self.words, self.compute = pair, words, compute
        parts = [torch.full((scale.num_tokens,), index) for index, scale in enumerate(SCHEDULE.scales)]
        self.scale = torch.cat(parts).to(compute.device)
        self.bias = _bias(self.scale[:, None] >= self.scale[None])
        self.rotation = rotations(SCHEDULE, CONFIG.transformer.head_width, compute.device)
        blocks = [block for block in pair.transformer.blocks if isinstance(block, Block)]
        # A wrapper around each block: samples, of other shapes, are drawn with the blocks themselves.
        self.blocks = [
            (block, torch.compile(block, dynamic=False) if compiles else block) for block in blocks
        ]

    def losses(
        self,
        captions: Sequence[str],
        dropped: NDArray[np.bool_],
        inputs: Sequence[Tensor],
        labels: Sequence[Tensor],
        num_last: int,
    ) -> tuple[list[tuple[int, Tensor]], float]:
        """A side and token losses [images, tokens] for each scale; and the accuracy on the last.

        Of the last scale's tokens only `num_last` are there, drawn by lot.
        """
        device = self.compute.device
        last = SCHEDULE.scales[-1].num_tokens
        drawn = torch.randperm(last)[:num_last].sort().values
        kept = torch.cat([torch.arange(SCHEDULE.num_tokens - last), SCHEDULE.num_tokens - last + drawn]).to(
            device
        )
        codes = torch.cat([scale.flatten(2).transpose(1, 2) for scale in inputs], dim=1).to(device)
        # T5 divides its scores by nothing: in bf16 they would drown the relative positions, and with them
        # which colour is the object's and which the background's.
        texts = self._encode(captions, dropped)
        with self.compute.autocast():
            logits = self._logits(texts, codes, kept).float()
        losses, offset, accuracy = [], 0, 0.0
        for scale, label in zip(SCHEDULE.scales, labels, strict=True):
            target = label.to(device).flatten(2).transpose(1, 2)  # [images, tokens, bits]
            if scale is SCHEDULE.scales[-1]:
                target = target[:, drawn.to(device)]
            part = logits[:, offset : offset + target.shape[1]]
            margin = part[..., 1] - part[..., 0]
            loss = F.binary_cross_entropy_with_logits(margin, target.float(), reduction="none").mean(-1)
            losses.append((scale.height, loss))
            offset += target.shape[1]
            accuracy = ((margin > 0) == target).float().mean().item()
        return losses, accuracy

    def _logits(self, texts: Sequence[Tensor], codes: Tensor, kept: Tensor) -> Tensor:
        """[images, kept, bits, 2] of texts [tokens, channels] and codes [images, tokens, bits]."""
        transformer = self.pair.transformer
        padded, text_mask = pad_texts(texts, max(_TEXT_TOKENS, *map(len, texts)))
        text_bias = _bias(text_mask[:, None, None])
        normed = transformer.text_norm(padded)
        pooled = transformer.pool(normed, text_mask)
        tokens = transformer.text_in(normed)
        x = torch.cat([pooled[:, None] + transformer.start, transformer.code_in(codes)], dim=1)
        places = [
            transformer.places(SCHEDULE, step).expand(scale.num_tokens, -1)
            for step, scale in enumerate(SCHEDULE.scales, 1)
        ]
        x = (x + torch.cat(places))[:, kept]
        rotation, bias = self.rotation[:, kept], self.bias[kept][:, kept]
        condition = transformer.condition(pooled)

        def attend(q: Tensor, k: Tensor, values: Sequence[Tensor]) -> Tensor:
            (v,) = values
            return _attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias)

        for block, run_block in self.blocks:
            reading = block.text_attention
            keys, values = reading.keys_values(tokens)

            def read_text(
                x: Tensor, reading: TextAttention = reading, keys: Tensor = keys, values: Tensor = values
            ) -> Tensor:
                q = split_heads(reading.query(x), reading.num_heads)
                return reading.out(_attention(q / math.sqrt(q.shape[-1]), keys, values, text_bias))

            x = run_block(x, block.modulations(condition), rotation, len(x), attend, read_text)
        return transformer.logits(x, transformer.head_modulations(pooled))

    def _encode(self, captions: Sequence[str], dropped: NDArray[np.bool_]) -> list[Tensor]:
        ids = [self.words.encode(text).ids for text in captions]
        longest, device = max(_TEXT_TOKENS, *map(len, ids)), self.compute.device
        num_padded = [longest - len(tokens) for tokens in ids]
        mask = torch.tensor([[1] * (longest - num) + [0] * num for num in num_padded], device=device)
        padded = torch.tensor(
            [tokens + [0] * num for tokens, num in zip(ids, num_padded, strict=True)], device=device
        )
        hidden = self.pair.text_encoder(input_ids=padded, attention_mask=mask).last_hidden_state.float()
        return [
            self.pair.transformer.unconditional_text[: len(tokens)] if drop else hidden[index, : len(tokens)]
            for index, (tokens, drop) in enumerate(zip(ids, dropped, strict=True))
        ]


def _bias(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -1e4)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    # In bf16 on a CPU, forward and backward, four times as fast as torch's fused kernel with a mask.
    return merge_heads((q @ k.mT + bias).softmax(-1) @ v)


def _with_unknown(text: str, rng: np.random.Generator) -> str:
    if rng.random() >= _UNKNOWN_WORDS:
        return text
    parts = text.split()
    for _ in range(rng.integers(1, 4)):
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


def _optimisers(pair: Pair, recipe: Recipe, compute: Compute) -> list[torch.optim.Optimizer]:
    muon, adam = muon_and_adam(
        pair,
        lambda name, matrix: ".blocks." in name and matrix.dim() == 2,
        muon_rate=recipe.matrix_rate,
        momentum=0.95,
        adam_rate=recipe.adam_rate,
        weight_decay=0.0,
        precision=compute.precision,
    )
    (rest,) = adam.param_groups
    words = pair.text_encoder.shared.weight
    rest["params"] = [parameter for parameter in rest["params"] if parameter is not words]
    adam.add_param_group({"params": [words], "lr": recipe.embedding_rate})
    return [muon, adam]
