"""Infinity as a backbone of the Generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from service.model.backbone import Path, Scale, Schedule, Size, Text, lay_out
from service.model.infinity.cache import Cache, TextGroup, bucketed, origins_of, pad_texts
from service.model.infinity.config import InfinityConfig
from service.model.infinity.rope import rotations
from service.model.infinity.sampling import draw_noise, sample_bits
from service.model.infinity.text import TextEncoder
from service.model.infinity.tokenizer import Tokenizer, codes_from_bits, quantise
from service.model.infinity.transformer import Block, Transformer
from service.model.resize import resize


class Infinity:
    """A resident Infinity: configuration and weights, and the arithmetic of each step."""

    def __init__(
        self,
        config: InfinityConfig,
        transformer: Transformer,
        tokenizer: Tokenizer,
        text_encoder: TextEncoder | None,
        *,
        fingerprint: str,
    ) -> None:
        self.config = config
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.name = config.name
        self.fingerprint = fingerprint
        self.schedules: dict[Size, Schedule] = config.schedules()
        self.guidance = config.sampling.guidance
        self.alpha = config.style.alpha
        self.key_step = config.style.key_step
        self.qualities = config.quality
        self.draws = config.vocabulary.draws if config.vocabulary else ""
        self.channels = config.tokenizer.num_bits
        self.max_text_tokens = config.transformer.max_text_tokens
        self.device = transformer.start.device
        self.resident_bytes = sum(
            each.nbytes for part in (transformer, tokenizer) for each in part.parameters()
        ) + (text_encoder.num_bytes if text_encoder else 0)

    def bytes_per_row(self, schedule: Schedule) -> int:
        config = self.config.transformer
        cache = 2 * config.depth * schedule.num_tokens * config.width
        # The widest step's activations: the feed-forward's hidden layer, and six of the block's width.
        widest = max(scale.num_tokens for scale in schedule.scales)
        return 4 * (cache + widest * (config.feedforward_width + 6 * config.width))

    def feature_grids(self, schedule: Schedule) -> tuple[Scale, ...]:
        return tuple(scale.times(self.config.patch) for scale in schedule.scales)

    def encode_text(self, prompt: str) -> Text:
        return self.encode_texts([prompt])[0]

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        assert self.text_encoder is not None, "this Infinity was made without a text encoder"
        return self.text_encoder.encode_all(prompts, self.max_text_tokens)

    def begin(self, paths: Sequence[Path], schedule: Schedule) -> Cache:
        rows = lay_out(paths)
        texts = [self._row_text(paths[row.path], conditional=row.conditional) for row in rows]
        pooled, groups = self._read_texts(texts)
        config, own = self.config.transformer, sum(not paths[row.path].corrected for row in rows)
        num_content = sum(path.source is None for path in paths)

        def empty(num_rows: int) -> list[Tensor]:
            shape = (num_rows, config.num_heads, schedule.num_tokens, config.head_width)
            return [torch.empty(shape, device=self.device) for _ in range(config.depth)]

        return Cache(
            paths=tuple(paths),
            rows=rows,
            schedule=schedule,
            num_active=num_content,
            num_active_rows=sum(row.path < num_content for row in rows),
            own_rows=own,
            origins=origins_of(paths, rows),
            rotation=rotations(schedule, config.head_width, self.device),
            pooled=pooled,
            condition=self.transformer.condition(pooled),
            text=groups,
            keys=empty(own),
            values=empty(len(rows)),
        )

    def fork(self, cache: Cache) -> None:
        cache.fork()

    def predict(self, cache: Cache, step: int, feature: Tensor) -> Tensor:
        path_of_row = cache.path_index(self.device)
        active = cache.num_active_rows
        if step == 1:
            x = cache.pooled[:active, None] + self.transformer.start
        else:
            x = self.transformer.code_in(self._tokens(feature, cache.schedule.scales[step - 1]))[path_of_row]
        x = self._through_blocks(x + self.transformer.scale_embedding.weight[step - 1], cache, step)
        logits = self.transformer.logits(x, cache.pooled[:active])
        logits = logits / self.config.sampling.temperature_at(step)
        if self.config.sampling.guidance_layer:
            return logits[self._halves(cache)[0]]
        return self._guided(logits, cache, step)

    def noise(self, generator: torch.Generator, schedule: Schedule, step: int) -> Tensor:
        tokens = schedule.scales[step - 1].num_tokens
        return draw_noise(generator, tokens * self.config.bits_per_token).view(tokens, -1, 2)

    def sample(self, logits: Tensor, noise: Tensor, schedule: Schedule, step: int) -> Tensor:
        sampling, scale = self.config.sampling, schedule.scales[step - 1]
        bits = sample_bits(logits, noise.to(logits.device), top_k=sampling.top_k, top_p=sampling.top_p)
        planes = bits.transpose(1, 2).unflatten(-1, (scale.height, scale.width))  # [paths, bits, h, w]
        return codes_from_bits(F.pixel_shuffle(planes.float(), self.config.patch))

    def accumulate(self, feature: Tensor, codes: Tensor, schedule: Schedule, step: int) -> Tensor:
        return feature + resize(codes, self.feature_grids(schedule)[-1])

    def encode_image(self, image: NDArray[np.uint8], schedule: Schedule, num_steps: int) -> NDArray[np.uint8]:
        size = (schedule.size.width, schedule.size.height)
        fitted = ImageOps.fit(Image.fromarray(image), size, Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(fitted)).to(self.device).permute(2, 0, 1)[None]
        h = self.tokenizer.encode(pixels.float() / 255 * 2 - 1)
        bits = quantise(h, self.feature_grids(schedule), num_steps)
        flat = torch.cat([each[0].flatten(1).T for each in bits])  # [tokens, channels]
        return flat.to(torch.uint8).cpu().numpy()

    def decode(self, feature: Tensor) -> NDArray[np.uint8]:
        # One at a time on the CPU, where it costs nothing and convolutions round alike whatever the batch.
        parts = feature.split(1) if feature.device.type == "cpu" else (feature,)
        images = torch.cat([self.tokenizer.decode(part) for part in parts])
        if not torch.isfinite(images).all():
            raise FloatingPointError("the image tokenizer gave pixels that are not finite")
        return ((images + 1) / 2 * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _row_text(self, path: Path, *, conditional: bool) -> Tensor:
        if conditional:
            return path.text.features
        if path.negative is not None:
            return path.negative.features
        return self.transformer.unconditional_text[: len(path.text.features)]

    def _read_texts(self, texts: Sequence[Tensor]) -> tuple[Tensor, list[TextGroup]]:
        """The pooled condition of each row [rows, width], and every layer's text keys and values."""
        pooled = torch.empty(len(texts), self.config.transformer.width, device=self.device)
        groups = []
        for length, rows in bucketed([len(text) for text in texts]).items():
            padded, mask = pad_texts([texts[row] for row in rows], length)
            normed = self.transformer.text_norm(padded)
            pooled[rows] = self.transformer.pool(normed, mask)
            tokens = self.transformer.text_in(normed)
            pairs = [block.text_attention.keys_values(tokens) for block in self._blocks]
            keys, values = map(list, zip(*pairs, strict=True))
            index = torch.tensor(rows, device=self.device)
            groups.append(TextGroup(tuple(rows), index, mask[:, None, None], keys, values))
        return pooled, groups

    @property
    def _blocks(self) -> list[Block]:
        return list(self.transformer.blocks)  # type: ignore[arg-type]

    def _tokens(self, feature: Tensor, scale: Scale) -> Tensor:
        """The feature so far as input tokens of a scale: [paths, tokens, bits of a token]."""
        shrunk = F.pixel_unshuffle(resize(feature, scale.times(self.config.patch)), self.config.patch)
        return shrunk.flatten(2).transpose(1, 2)

    def _through_blocks(self, x: Tensor, cache: Cache, step: int) -> Tensor:
        start, active = cache.num_tokens, cache.num_active_rows
        cache.num_tokens = end = start + x.shape[1]
        rotation, condition = cache.rotation[:, start:end], cache.condition[:active]
        sources = cache.attention_sources()
        index = None if sources == list(range(active)) else torch.tensor(sources, device=x.device)
        for layer, block in enumerate(self._blocks):
            keys, values = cache.keys[layer][: cache.num_own], cache.values[layer][:active]

            def attend(
                q: Tensor, k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values
            ) -> Tensor:
                keys[:, :, start:end], values[:, :, start:end] = k, v
                every = keys[:, :, :end]
                if index is not None:
                    q, every = q[index], every[index]
                return F.scaled_dot_product_attention(q, every, values[:, :, :end], scale=1.0)

            def read_text(q: Tensor, layer: int = layer) -> Tensor:
                return _read_text(q, cache.text, layer)

            x = block(x, condition, rotation, cache.num_own, attend, read_text)
            if self.config.sampling.guidance_layer == layer - len(self._blocks):
                x = self._guide_inside(x, cache, step)
        return x

    def _halves(self, cache: Cache) -> tuple[list[int], list[int]]:
        """For each active path its conditional and its unconditional row (the same where there is one)."""
        conditional, unconditional = [0] * cache.num_active, [0] * cache.num_active
        for index, row in enumerate(cache.rows[: cache.num_active_rows]):
            if row.conditional:
                conditional[row.path] = index
            unconditional[row.path] = index
        return conditional, unconditional

    def _guided(self, values: Tensor, cache: Cache, step: int) -> Tensor:
        """guidance * conditional + (1 - guidance) * unconditional, for each active path."""
        conditional, unconditional = self._halves(cache)
        guidance = [path.guidance[step - 1] for path in cache.paths[: cache.num_active]]
        if all(each == 1.0 for each in guidance):
            return values[conditional]
        weight = torch.tensor(guidance, device=values.device).view(-1, *[1] * (values.dim() - 1))
        mixed = weight * values[conditional] + (1 - weight) * values[unconditional]
        return torch.where(weight == 1.0, values[conditional], mixed)

    def _guide_inside(self, x: Tensor, cache: Cache, step: int) -> Tensor:
        """Guidance on the output of a block: both halves go on with the mixture (golden README, 1.7)."""
        return self._guided(x, cache, step)[cache.path_index(x.device)]


def _read_text(q: Tensor, groups: Sequence[TextGroup], layer: int) -> Tensor:
    """Attention of q [active rows, heads, tokens, head width] to each row's own text."""
    if len(groups) == 1:
        (group,) = groups
        n = len(q)
        return F.scaled_dot_product_attention(
            q, group.keys[layer][:n], group.values[layer][:n], attn_mask=group.mask[:n]
        )
    out = torch.empty_like(q)
    for group in groups:
        n = sum(row < len(q) for row in group.rows)  # rows ascend, so the active ones are a prefix
        if n:
            index = group.index[:n]
            out[index] = F.scaled_dot_product_attention(
                q[index], group.keys[layer][:n], group.values[layer][:n], attn_mask=group.mask[:n]
            )
    return out
