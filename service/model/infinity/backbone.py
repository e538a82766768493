"""Infinity as a backbone of the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from service.model.block_runner import (
    RunBlock,
    compile_decoder,
    compiled_run_block,
    configure_compiler,
    run_block,
)
from service.model.checkpoints.options import DecodingChoice
from service.model.device.precision import name_of
from service.model.device.transfer import DecodedImages, decodes_beside, pixels_of, send
from service.model.engine.types import Coupling, Path, Text, TextCoverage, Vocabulary
from service.model.infinity import style
from service.model.infinity.config import InfinityConfig
from service.model.infinity.decoding import DecoderRunner
from service.model.infinity.memory import captured_step_bytes, footprint
from service.model.infinity.rope import rotations
from service.model.infinity.sampling import NoiseStream, couple_bits
from service.model.infinity.step import StepFunctions
from service.model.infinity.t5 import TextEncoder
from service.model.infinity.text_conditioning import BatchTexts, TextConditioning
from service.model.infinity.tokenizer import Tokenizer, codes_from_bits, quantise, signed_codes
from service.model.infinity.transformer import Block, Transformer
from service.model.kv_cache import KVCache, RowGroup, step_attention
from service.model.rows import lay_out_rows
from service.model.schedule import Scale, Schedule, Size
from service.model.step_runner import Predicted, StepPlace, StepRunner
from service.model.style.feature import StyleFeature
from service.model.style.resize import resize
from service.model.style.tokens import StyleTokens
from service.model.text_layers import text_layers

Cache = KVCache[TextConditioning]
Rows = RowGroup[TextConditioning]
Place = StepPlace[TextConditioning]


# Of the unconditional text where no prompt decides: the model has learned it at the lengths of captions.
NUM_UNCONDITIONAL_TOKENS = 8


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
        self.config, self.fingerprint, self.mapped_bytes = config, fingerprint, mapped_bytes
        self.transformer, self.tokenizer, self.text_encoder = transformer, tokenizer, text_encoder
        # Convolutions like channels last: 1.0 to 1.6 times as fast on an EPYC, and GPUs are built for it.
        tokenizer.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoding = DecoderRunner(tokenizer, decoding, mapped_bytes=mapped_bytes)
        self.name = config.name
        self.schedules: dict[Size, Schedule] = config.schedules()
        self.guidance = config.sampling.guidance
        self.alpha = config.style.alpha
        self.key_step = config.style.key_step
        self.qualities = config.qualities()
        self.vocabulary: Vocabulary | None = config.vocabulary
        self.num_channels = config.tokenizer.num_bits
        self.max_text_tokens = config.transformer.max_text_tokens
        self.device = transformer.start.device
        self.dtype = transformer.code_in.weight.dtype  # of the blocks, and of their keys and values
        self.precision = name_of(transformer.blocks, self.dtype)
        self._run_block: RunBlock = run_block
        self._functions = StepFunctions()
        shape = config.transformer
        self.steps: StepRunner[TextConditioning] = StepRunner(
            shape.depth, shape.num_heads, shape.head_width, self.schedules.values(), self.device, self.dtype
        )
        self._rotations: dict[Schedule, Tensor] = {}
        # Kernels of one row at a time round alike in any company, and are fast enough on a CPU alone.
        self.is_fused = self.device.type != "cpu"
        self.is_compiled = False
        self.decodes_beside = decodes_beside(self.device)
        weights = (*transformer.parameters(), *tokenizer.parameters())
        text_bytes = text_encoder.num_bytes if text_encoder else 0
        self.resident_bytes = sum(parameter.nbytes for parameter in weights) + text_bytes

    def batch_bytes(self, schedule: Schedule, num_images: int) -> int:
        batch = footprint(self.config, schedule, num_images, self.dtype, self.decoding.num_at_once)
        peak = batch.peak_of_two if self.decodes_beside else batch.peak
        return peak + self.steps.kept_bytes(captured_step_bytes(self.config, self.dtype))

    @classmethod
    def sharing_weights(cls, other: Infinity, config: InfinityConfig | None = None) -> Self:
        """Another one on the same weights, compiled where they are."""
        shared = cls(
            config or other.config,
            other.transformer,
            other.tokenizer,
            other.text_encoder,
            fingerprint=other.fingerprint,
            decoding=other.decoding.mode,
            mapped_bytes=other.mapped_bytes,
        )
        shared._run_block, shared._functions = other._run_block, other._functions
        shared.steps = other.steps
        shared.is_fused, shared.is_compiled = other.is_fused, other.is_compiled
        return shared

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the block (`compiled_run_block`), what follows the blocks, and the image decoder, at their
        first use."""
        self.is_compiled = True
        self.is_fused = True  # the exact kernels go through the rows, and are compiled for their number
        self._run_block = compiled_run_block(backend)
        self._functions = StepFunctions.compiled(backend)
        compile_decoder(self.tokenizer.decoder, backend)

    def feature_grids(self, schedule: Schedule) -> tuple[Scale, ...]:
        """The scales on the image tokenizer's grid, on which codes and features are."""
        return tuple(scale.times(self.config.patch) for scale in schedule.scales)

    # Text and guidance

    def encode_text(self, prompt: str) -> Text:
        return self.encode_texts([prompt])[0]

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        assert self.text_encoder is not None, "this Infinity was made without a text encoder"
        return self.text_encoder.encode_all(prompts, self.max_text_tokens)

    def text_coverage(self, text: str) -> TextCoverage:
        assert self.text_encoder is not None, "this Infinity was made without a text encoder"
        return self.text_encoder.coverage(text, self.max_text_tokens)

    def guidance_of_steps(self, guidance: float, num_steps: int) -> tuple[float, ...]:
        """The same at every step, or until the key step and less of it after that (`fine_guidance`)."""
        fine = guidance - (1 - self.config.sampling.fine_guidance) * (guidance - 1)
        return tuple(guidance if step <= self.key_step else fine for step in range(1, num_steps + 1))

    # The loop over scales

    def begin(self, paths: Sequence[Path], schedule: Schedule, num_steps: int) -> Cache:
        if self.is_compiled:
            configure_compiler()
        rows = lay_out_rows(paths)
        extent = self.feature_grids(schedule)[-1]
        rotation = self._rotation(schedule)
        schedule = replace(schedule, scales=schedule.scales[:num_steps])

        row_texts = [self._row_text(paths[row.path], row.conditional) for row in rows]
        texts, text_of_row = self._batch_texts(row_texts)
        num_own = sum(not paths[row.path].corrected for row in rows)
        key_values, num_static_steps = self.steps.key_values(num_own, len(rows), schedule)
        return KVCache(
            paths,
            rows,
            texts,
            text_of_row,
            key_values=key_values,
            rotation=rotation,
            schedule=schedule,
            extent=extent,
            is_fused=self.is_fused,
            num_static_steps=num_static_steps,
        )

    def noise(self, seeds: Sequence[int], schedule: Schedule, num_steps: int) -> NoiseStream:
        num_bits = self.config.bits_per_token
        num_bits_of_steps = [scale.num_tokens * num_bits for scale in schedule.scales[:num_steps]]
        return NoiseStream(seeds, num_bits_of_steps, num_bits)

    def empty_features(self, cache: Cache) -> Tensor:
        num_paths = len(cache.active.rows.paths)
        shape = (num_paths, self.num_channels, cache.extent.height, cache.extent.width)
        return torch.zeros(shape, device=self.device)

    def predict(self, cache: Cache, features: Tensor, step: int) -> Tensor:
        return self.steps.run(cache, features, step, self._predicted)

    def sample(self, cache: Cache, logits: Tensor, noise: NoiseStream, step: int) -> Tensor:
        drawn = send(noise.at(step)[cache.content_of_active()], logits.device)
        root = math.sqrt(self.num_channels)
        codes = self._functions.draw_codes(logits, drawn, self.config.sampling, root)
        return self._planes(codes, cache.schedule.scales[step - 1])

    def couple(
        self, cache: Cache, codes: Tensor, logits: Tensor, noise: NoiseStream, step: int, coupling: Coupling
    ) -> Tensor:
        drawn = send(noise.at(step)[list(coupling.sources)], logits.device)
        picture = F.pixel_unshuffle(coupling.codes, self.config.patch).flatten(2).mT > 0
        bits = couple_bits(logits[coupling.paths], logits[coupling.references], picture, drawn)
        coupled = self._planes(
            signed_codes(bits, math.sqrt(self.num_channels)), cache.schedule.scales[step - 1]
        )
        return codes.index_copy(0, coupling.paths, coupled)

    def accumulate(self, cache: Cache, features: Tensor, codes: Tensor, step: int) -> Tensor:
        return cache.keep_active(features) + resize(codes, cache.extent)

    def decode(self, features: Tensor) -> DecodedImages:
        return DecodedImages(self.decoding.images(features))

    def decode_preview(self, features: Tensor, schedule: Schedule, step: int) -> DecodedImages:
        # On the scale's own grid the feature is what the next step reads, and decoding costs by the pixel.
        return self.decode(resize(features, self.feature_grids(schedule)[step - 1]))

    # Styles

    def encode_image(self, image: NDArray[np.uint8], schedule: Schedule, num_steps: int) -> StyleTokens:
        h = self.tokenizer.encode(pixels_of(image, schedule.size, self.device))
        return self._tokens_of_bits(quantise(h, self.feature_grids(schedule), num_steps))

    def tokens_of_codes(self, codes: Sequence[Tensor]) -> StyleTokens:
        return self._tokens_of_bits([code > 0 for code in codes])

    def codes_of_tokens(self, tokens: StyleTokens, schedule: Schedule, num_steps: int) -> Sequence[Tensor]:
        grids = self.feature_grids(schedule)[:num_steps]
        if tokens.num_images != 1:
            raise ValueError(f"these are the tokens of {tokens.num_images} pictures, not of one")
        bits = style.unpack(tokens, sum(grid.num_tokens for grid in grids), self.num_channels)
        flat = send(torch.from_numpy(bits), self.device).T[None]  # [1, channels, tokens]
        parts = flat.split([grid.num_tokens for grid in grids], dim=-1)
        return [
            codes_from_bits(part.unflatten(-1, (grid.height, grid.width)))
            for part, grid in zip(parts, grids, strict=True)
        ]

    def combine_tokens(
        self, tokens: Sequence[StyleTokens], schedule: Schedule, num_steps: int
    ) -> StyleTokens:
        num_tokens = sum(grid.num_tokens for grid in self.feature_grids(schedule)[:num_steps])
        return style.combine(tokens, num_tokens, self.num_channels)

    def decompose(
        self, tokens: StyleTokens, read_at: Schedule, num_steps: int, drawn_at: Schedule
    ) -> StyleFeature:
        grids, extent = self.feature_grids(read_at)[:num_steps], self.feature_grids(drawn_at)[-1]
        return style.decompose(tokens, grids, extent, self.num_channels)

    def style_feature(self, feature: StyleFeature) -> Tensor:
        return style.feature_of(feature)

    def style_principal(self, feature: StyleFeature, alpha: float) -> Tensor:
        return style.principal_of(feature, alpha)

    def style_agreement(self, feature: StyleFeature) -> float | None:
        return style.agreement(feature)

    # Private

    def _predicted(self, active: Rows, features: Tensor, place: Place) -> Predicted:
        x, left = self._through_blocks(self._inputs(active, features, place), active, place)
        return self._guided_logits(x, left, place.step)

    def _planes(self, codes: Tensor, scale: Scale) -> Tensor:
        """Codes [paths, tokens, bits of a token] of one scale as [paths, channels, h, w]."""
        planes = codes.transpose(1, 2).unflatten(-1, (scale.height, scale.width))
        return F.pixel_shuffle(planes, self.config.patch)

    def _tokens_of_bits(self, bits: Sequence[Tensor]) -> StyleTokens:
        """Of bits [1, channels, h, w] of the first scales, those of one picture."""
        flat = torch.cat([planes[0].flatten(1).T for planes in bits])  # [tokens, channels]
        return style.pack(flat.to(torch.uint8).cpu().numpy())

    def _rotation(self, schedule: Schedule) -> Tensor:
        """The rotations of a native schedule, computed once: 7 to 16 ms, and 5 MB to send."""
        if schedule not in self._rotations:
            head_width = self.config.transformer.head_width
            self._rotations[schedule] = rotations(schedule, head_width, self.device)
        return self._rotations[schedule]

    def _row_text(self, path: Path, conditional: bool) -> Tensor:
        """The text of one row, [tokens, text channels]."""
        if path.text is None:
            return self.transformer.unconditional_text[:NUM_UNCONDITIONAL_TOKENS]
        text: Tensor = path.text.conditioning
        if conditional:
            return text
        if path.negative is not None:
            return path.negative.conditioning
        return self.transformer.unconditional_text[: len(text)]

    def _batch_texts(self, texts: Sequence[Tensor]) -> tuple[BatchTexts, tuple[int, ...]]:
        """The distinct ones of the rows' texts, and which of them each row has; the same tensor is one."""
        distinct = {_identity(text): text for text in texts}
        index_of = {identity: index for index, identity in enumerate(distinct)}
        normed = [self.transformer.text_norm(text) for text in distinct.values()]
        pooled = torch.cat([self.transformer.pool(text[None]) for text in normed])
        condition = self.transformer.condition(pooled)
        tokens = [self.transformer.text_in(text) for text in normed]
        attentions = [block.text_attention for block in self._blocks]
        batch = BatchTexts(
            pooled=pooled,
            modulations=torch.stack([block.modulations(condition) for block in self._blocks]),
            head_modulations=self.transformer.head_modulations(pooled),
            layers=text_layers(attentions, tokens, is_padded=self.is_fused),
        )
        return batch, tuple(index_of[_identity(text)] for text in texts)

    @property
    def _blocks(self) -> list[Block]:
        return list(self.transformer.blocks)  # type: ignore[arg-type]

    def _inputs(self, active: Rows, features: Tensor, place: Place) -> Tensor:
        """The input tokens of a step, [rows, tokens, width]."""
        if place.step == 1:
            x = active.text.pooled[:, None] + self.transformer.start
        else:
            grid = place.schedule.scales[place.step - 1].times(self.config.patch)
            shrunk = F.pixel_unshuffle(resize(features, grid), self.config.patch)
            tokens = shrunk.flatten(2).transpose(1, 2)  # [paths, tokens, bits of a token]
            x = self.transformer.code_in(tokens)[active.rows.path_of_row]
        return x + self.transformer.places(place.schedule, place.step)

    def _through_blocks(self, x: Tensor, active: Rows, place: Place) -> tuple[Tensor, Rows]:
        """The rows that the last block leaves, [rows, tokens, width], and which they are."""
        left, blocks = active, self._blocks
        for layer, block in enumerate(blocks):
            if layer == len(blocks) - 1:
                left = place.left or active
            modulations, num_own = active.text.modulations[layer], active.rows.num_own
            attention = step_attention(active.rows, left.rows, place.layers[layer], is_fused=self.is_fused)
            texts = left.text.layers[layer]
            x = self._run_block(block, x, modulations, place.rotation, num_own, attention, texts)
            if self.config.sampling.guidance_layer == layer - len(blocks):
                x = left.rows.guided(x, place.step)[
                    left.rows.path_of_row
                ]  # both halves go through the next block (golden README, 1.7)
        return x, left

    def _guided_logits(self, x: Tensor, group: Rows, step: int) -> Predicted:
        """Logits [paths, tokens, bits, 2] of rows x [rows, tokens, width], and whether all are finite."""
        rows, sampling = group.rows, self.config.sampling
        return self._functions.guided_logits(
            self.transformer,
            x,
            group.text.head_modulations,
            sampling.temperature_at(step),
            rows.conditional,
            rows.unconditional,
            None if sampling.guidance_layer else rows.weight(step),
        )


def _identity(text: Tensor) -> tuple[int, int]:
    # Memory and length: the unconditional text of every length is a part of one tensor.
    return text.data_ptr(), len(text)
