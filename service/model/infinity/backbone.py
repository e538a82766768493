"""Infinity as a backbone of the Generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from service.model.checkpoints.options import DecodingChoice
from service.model.device.transfer import DecodedImages, send
from service.model.engine.types import Path, Text, lay_out
from service.model.infinity.attention import Memory
from service.model.infinity.config import InfinityConfig
from service.model.infinity.decoding import DecoderRunner
from service.model.infinity.kv_cache import ActiveRows, Cache
from service.model.infinity.memory import footprint
from service.model.infinity.rope import rotations
from service.model.infinity.sampling import draw_noise, sample_bits
from service.model.infinity.t5 import TextEncoder
from service.model.infinity.text_conditioning import BatchTexts, PaddedTexts, SeparateTexts, TextsOfRows
from service.model.infinity.tokenizer import Tokenizer, codes_from_bits, quantise
from service.model.infinity.transformer import Block, Transformer
from service.model.schedule import Scale, Schedule, Size
from service.model.style.resize import resize


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
        decoding: DecodingChoice = "auto",
        mapped_bytes: int = 0,
    ) -> None:
        self.config = config
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.mapped_bytes = mapped_bytes
        # Convolutions like channels last: 1.0 to 1.6 times as fast on an EPYC, and GPUs are built for it.
        tokenizer.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoding = DecoderRunner(tokenizer, decoding, mapped_bytes=mapped_bytes)
        self.name = config.name
        self.fingerprint = fingerprint
        self.schedules: dict[Size, Schedule] = config.schedules()
        self.guidance = config.sampling.guidance
        self.alpha = config.style.alpha
        self.key_step = config.style.key_step
        self.qualities = config.qualities()
        self.draws = config.vocabulary.draws if config.vocabulary else ""
        self.channels = config.tokenizer.num_bits
        self.max_text_tokens = config.transformer.max_text_tokens
        self.device = transformer.start.device
        self.dtype = transformer.code_in.weight.dtype  # of the blocks, and of their keys and values
        self.precision: Literal["fp32", "bf16"] = "fp32" if self.dtype == torch.float32 else "bf16"
        self._run = _run
        # Kernels of one row at a time round alike in any company, and are fast enough on a CPU alone.
        self.is_fused = self.device.type != "cpu"
        if self.device.type == "cuda":
            # cuDNN's attention makes a plan for each new shape, of which texts and batches have many.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.is_compiled = False
        self.resident_bytes = sum(
            parameter.nbytes for part in (transformer, tokenizer) for parameter in part.parameters()
        ) + (text_encoder.num_bytes if text_encoder else 0)

    def batch_bytes(self, schedule: Schedule, num_images: int) -> int:
        return footprint(self.config, schedule, num_images, self.dtype, self.decoding.num_at_once).peak

    def at_budget(self, budget: str) -> Infinity:
        """The same weights on the schedules of another pixel budget."""
        other = Infinity(
            replace(self.config, budget=budget),
            self.transformer,
            self.tokenizer,
            self.text_encoder,
            fingerprint=self.fingerprint,
            decoding=self.decoding.mode,
            mapped_bytes=self.mapped_bytes,
        )
        other._run, other.is_fused, other.is_compiled = self._run, self.is_fused, self.is_compiled
        return other

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the block and the image decoder, without a graph break, at their first use.

        All blocks share the code, and so do all steps, prompts and batches: no shape is written into it.
        There are some twenty versions, for what a batch has or lacks (`warming.of_every_kind`).
        """
        self.is_compiled = True
        self.is_fused = True  # the exact kernels go through the rows, and are compiled for their number
        self._run = torch.compile(_run, fullgraph=True, dynamic=True, backend=backend)
        self.tokenizer.decoder.compile(fullgraph=True, dynamic=True, backend=backend)

    def feature_grids(self, schedule: Schedule) -> tuple[Scale, ...]:
        return tuple(scale.times(self.config.patch) for scale in schedule.scales)

    def encode_text(self, prompt: str) -> Text:
        return self.encode_texts([prompt])[0]

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        assert self.text_encoder is not None, "this Infinity was made without a text encoder"
        return self.text_encoder.encode_all(prompts, self.max_text_tokens)

    def begin(
        self, paths: Sequence[Path], schedule: Schedule, *, content_end_step: int | None = None
    ) -> Cache:
        if self.is_compiled:
            _configure_compiler()
        rows = lay_out(paths)
        config = self.config.transformer

        def empty(num_rows: int) -> list[Tensor]:
            shape = (num_rows, config.num_heads, schedule.num_tokens, config.head_width)
            return [torch.empty(shape, device=self.device, dtype=self.dtype) for _ in range(config.depth)]

        return Cache(
            paths=tuple(paths),
            rows=rows,
            schedule=schedule,
            content_end_step=content_end_step or len(schedule.scales),
            rotation=rotations(schedule, config.head_width, self.device),
            texts=self._read([self._row_text(paths[row.path], conditional=row.conditional) for row in rows]),
            keys=empty(sum(not paths[row.path].corrected for row in rows)),
            values=empty(len(rows)),
            is_fused=self.is_fused,
        )

    def fork(self, cache: Cache) -> None:
        cache.fork()

    def predict(self, cache: Cache, step: int, feature: Tensor, chosen: Tensor | None = None) -> Tensor:
        cache.shed(step)
        company = cache.active
        if step == 1:
            x = company.reading.pooled[:, None] + self.transformer.start
        else:
            tokens = self._tokens(feature, cache.schedule.scales[step - 1])
            if chosen is not None:
                tokens = tokens.take_along_dim(chosen[..., None], 1)
            x = self.transformer.code_in(tokens)[company.path_of_row]
        x = x + self.transformer.scale_embedding.weight[step - 1]
        x, company = self._through_blocks(x, self._rotation(cache, step, chosen), cache, step)
        cache.step = step
        cache.part_after(step)
        logits = self.transformer.logits(x, company.reading.head_modulations)
        logits = logits / self.config.sampling.temperature_at(step)
        if self.config.sampling.guidance_layer:
            return logits[company.conditional]
        return _guided(logits, company, step)

    def noise(self, generator: torch.Generator, schedule: Schedule, step: int) -> Tensor:
        tokens = schedule.scales[step - 1].num_tokens
        return draw_noise(generator, tokens * self.config.bits_per_token).view(tokens, -1, 2)

    def detail(self, feature: Tensor, schedule: Schedule, step: int) -> Tensor:
        tokens = self._tokens(feature, schedule.scales[step - 1])
        return (tokens - tokens.mean(1, keepdim=True)).square().sum(-1)

    def sample(
        self, logits: Tensor, noise: Tensor, schedule: Schedule, step: int, chosen: Tensor | None = None
    ) -> Tensor:
        sampling, scale = self.config.sampling, schedule.scales[step - 1]
        noise = send(noise, logits.device)
        if chosen is None:
            bits = sample_bits(logits, noise, top_k=sampling.top_k, top_p=sampling.top_p)
            return codes_from_bits(self._planes(bits.float(), scale))
        places = chosen[..., None]
        noise = noise.take_along_dim(places[..., None], 1)
        some = sample_bits(logits, noise, top_k=sampling.top_k, top_p=sampling.top_p).float()
        places = places.expand_as(some)
        every = some.new_zeros(len(some), scale.num_tokens, some.shape[-1])
        is_ready = self._planes(every.scatter(1, places, 1.0), scale)
        return codes_from_bits(self._planes(every.scatter(1, places, some), scale)) * is_ready

    def accumulate(self, feature: Tensor, codes: Tensor, schedule: Schedule, step: int) -> Tensor:
        return feature + resize(codes, self.feature_grids(schedule)[-1])

    def encode_image(self, image: NDArray[np.uint8], schedule: Schedule, num_steps: int) -> NDArray[np.uint8]:
        size = (schedule.size.width, schedule.size.height)
        fitted = ImageOps.fit(Image.fromarray(image), size, Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(fitted)).to(self.device).permute(2, 0, 1)[None]
        h = self.tokenizer.encode(pixels.float() / 255 * 2 - 1)
        bits = quantise(h, self.feature_grids(schedule), num_steps)
        flat = torch.cat([bit[0].flatten(1).T for bit in bits])  # [tokens, channels]
        return flat.to(torch.uint8).cpu().numpy()

    def decode(self, feature: Tensor) -> DecodedImages:
        return DecodedImages(self.decoding.images(feature))

    def _row_text(self, path: Path, *, conditional: bool) -> Tensor:
        if conditional:
            return path.text.features
        if path.negative is not None:
            return path.negative.features
        return self.transformer.unconditional_text[: len(path.text.features)]

    def _read(self, texts: Sequence[Tensor]) -> BatchTexts:
        """What each row's text says to every layer; rows whose text is one and the same tensor share it."""
        different = {_identity(text): text for text in texts}
        place = {identity: index for index, identity in enumerate(different)}
        normed = [self.transformer.text_norm(text) for text in different.values()]
        pooled = torch.cat([self.transformer.pool(text[None]) for text in normed])
        condition = self.transformer.condition(pooled)
        tokens = [self.transformer.text_in(text) for text in normed]
        attentions = [block.text_attention for block in self._blocks]
        return BatchTexts(
            pooled=pooled,
            modulations=torch.stack([block.modulations(condition) for block in self._blocks]),
            head_modulations=self.transformer.head_modulations(pooled),
            layers=(PaddedTexts if self.is_fused else SeparateTexts)(attentions, tokens),
            of_row=tuple(place[_identity(text)] for text in texts),
        )

    @property
    def _blocks(self) -> list[Block]:
        return list(self.transformer.blocks)  # type: ignore[arg-type]

    def _tokens(self, feature: Tensor, scale: Scale) -> Tensor:
        """The feature so far as input tokens of a scale: [paths, tokens, bits of a token]."""
        shrunk = F.pixel_unshuffle(resize(feature, scale.times(self.config.patch)), self.config.patch)
        return shrunk.flatten(2).transpose(1, 2)

    def _planes(self, bits: Tensor, scale: Scale) -> Tensor:
        """Values of bits [paths, tokens, bits of a token] on the feature's grid, [paths, channels, h, w]."""
        planes = bits.transpose(1, 2).unflatten(-1, (scale.height, scale.width))
        return F.pixel_shuffle(planes, self.config.patch)

    def _rotation(self, cache: Cache, step: int, chosen: Tensor | None) -> Tensor:
        """[2, tokens, head width / 2]; of chosen tokens, for each row that computes its own attention."""
        scales = cache.schedule.scales
        start = sum(scale.num_tokens for scale in scales[: step - 1])
        rotation = cache.rotation[:, start : start + scales[step - 1].num_tokens]
        if chosen is None:
            return rotation
        return rotation[:, chosen[cache.active.path_of_row[: cache.active.num_own]]]

    def _through_blocks(
        self, x: Tensor, rotation: Tensor, cache: Cache, step: int
    ) -> tuple[Tensor, ActiveRows]:
        """The rows that the last block leaves, [rows, tokens, width], and who they are."""
        company, start = cache.active, cache.num_tokens
        cache.num_tokens += x.shape[1]
        for layer, block in enumerate(self._blocks):
            if layer == len(self._blocks) - 1 and step == cache.content_end_step and cache.is_forked:
                # Of a content path that nobody asked for only the attention weights are still needed.
                company = cache.drawn
            memory = cache.memory(layer, start, company)
            modulations = cache.active.reading.modulations[layer]
            x = self._run(block, x, modulations, rotation, memory, company.reading.texts[layer])
            if self.config.sampling.guidance_layer == layer - len(self._blocks):
                x = _guided(x, company, step)[company.path_of_row]  # both halves go on (golden README, 1.7)
        return x, company


def _run(
    block: Block, x: Tensor, modulations: Tensor, rotation: Tensor, memory: Memory, texts: TextsOfRows
) -> Tensor:
    """One block over its rows: what is compiled."""
    read = partial(texts.read, block.text_attention)
    return block(x, modulations, rotation, len(memory.keys), memory.attend, read, memory.kept)


def _configure_compiler() -> None:
    """On the thread that draws: each has settings of its own."""
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 64
    torch.fx.experimental._config.use_duck_shape = False  # as many rows as tokens is a coincidence


def _guided(values: Tensor, company: ActiveRows, step: int) -> Tensor:
    """guidance * conditional + (1 - guidance) * unconditional, for each path."""
    conditional = values[company.conditional]
    if not company.is_guided[step - 1]:
        return conditional
    weight = company.guidance[step - 1].view(-1, *[1] * (values.dim() - 1))
    mixed = weight * conditional + (1 - weight) * values[company.unconditional]
    return torch.where(weight == 1.0, conditional, mixed)


def _identity(text: Tensor) -> tuple[int, int]:
    # Memory and length: the unconditional text of every length is a part of one tensor.
    return text.data_ptr(), len(text)
