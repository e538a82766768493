"""Switti as a backbone of the engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
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
from service.model.kv_cache import KVCache, RowGroup, step_attention
from service.model.rows import lay_out_rows
from service.model.schedule import Schedule, Size
from service.model.step_runner import Predicted, StepPlace, StepRunner
from service.model.style.blending import principal
from service.model.style.feature import StyleFeature
from service.model.style.resize import pool
from service.model.style.tokens import StyleTokens
from service.model.switti import style
from service.model.switti.config import SwittiConfig
from service.model.switti.memory import batch_bytes, captured_step_bytes
from service.model.switti.noise import Noise, StepNoise
from service.model.switti.rope import rotations
from service.model.switti.sampling import couple_tokens, draw_codes, guidance_of_steps, scaled
from service.model.switti.schedules import schedules, square_scales
from service.model.switti.text_conditioning import RowConditioning, TextConditioning
from service.model.switti.text_encoders import TextEncoders, TextFeatures
from service.model.switti.tokenizer import Tokenizer, as_planes, as_tokens
from service.model.switti.transformer import Block, Transformer

Cache = KVCache[RowConditioning]
Rows = RowGroup[RowConditioning]
Place = StepPlace[RowConditioning]
Seeds = tuple[int, ...]  # of each content path: all the noise there is follows from them


class Switti:
    """A resident Switti: configuration and weights, and the arithmetic of each step."""

    def __init__(
        self,
        config: SwittiConfig,
        transformer: Transformer,
        tokenizer: Tokenizer,
        text_encoders: TextEncoders | None,
        *,
        fingerprint: str,
        decoding: DecodingChoice = "auto",
        mapped_bytes: int = 0,
    ) -> None:
        """ValueError for decoding in strips."""
        require_whole(config, decoding)
        self.config = config
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.text_encoders = text_encoders
        self.mapped_bytes = mapped_bytes
        self.name = config.name
        self.fingerprint = fingerprint
        self.schedules: dict[Size, Schedule] = schedules(config)
        self.grids = square_scales(config.grids)
        # The number that a request names is what guidance grows by from the first step to the last.
        self.guidance = config.sampling.guidance_growth
        self.alpha = config.style.alpha
        self.key_step = config.style.key_step
        self.qualities = config.qualities()
        self.vocabulary: Vocabulary | None = None
        self.max_text_tokens = config.transformer.max_text_tokens
        self.device = transformer.start.device
        self.dtype = cast(Block, transformer.blocks[0]).attention.qkv.weight.dtype
        self.precision = name_of(transformer.blocks, self.dtype)
        self._style_tokenizer = style_tokenizer(tokenizer)
        self._run_block: RunBlock = run_block
        shape = config.transformer
        self.steps: StepRunner[RowConditioning] = StepRunner(
            shape.depth,
            shape.num_heads,
            shape.head_width,
            self.schedules.values(),
            self.device,
            self.dtype,
            caches=shape.is_causal,
        )
        # Kernels of one row at a time round alike in any batch, and are fast enough on a CPU alone.
        self.is_fused = self.device.type != "cpu"
        self.is_compiled = False
        self.decodes_beside = decodes_beside(self.device)
        self.resident_bytes = sum(
            parameter.nbytes for part in (transformer, tokenizer) for parameter in part.parameters()
        ) + (text_encoders.num_bytes if text_encoders else 0)

    def batch_bytes(self, schedule: Schedule, num_images: int) -> int:
        batch = batch_bytes(self.config, num_images, self.dtype, decodes_beside=self.decodes_beside)
        return batch + self.steps.kept_bytes(captured_step_bytes(self.config, self.dtype))

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the block (`compiled_run_block`) and the image decoder, at their first use."""
        self.is_compiled = True
        self.is_fused = True  # the exact kernels go through the rows, and are compiled for their number
        self._run_block = compiled_run_block(backend)
        compile_decoder(self.tokenizer.decoder, backend)

    # Text and guidance

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        assert self.text_encoders is not None, "this Switti was made without text encoders"
        return [_text(features) for features in self.text_encoders.encode_all(prompts)]

    def text_coverage(self, text: str) -> TextCoverage:
        assert self.text_encoders is not None, "this Switti was made without text encoders"
        num_tokens, is_cut = self.text_encoders.count(text)
        return TextCoverage(num_tokens - NUM_MARKS, is_cut)

    def guidance_of_steps(self, guidance: float, num_steps: int) -> tuple[float, ...]:
        """Growing from 1 by `guidance` over all steps, and 1 from where it ends."""
        return guidance_of_steps(replace(self.config.sampling, guidance_growth=guidance), num_steps)

    # The loop over scales

    def begin(self, paths: Sequence[Path], schedule: Schedule, num_steps: int) -> Cache:
        if self.is_compiled:
            configure_compiler()
        rows = lay_out_rows(paths)
        row_texts = [self._row_text(paths[row.path], row.conditional) for row in rows]
        distinct = {id(text): text for text in row_texts}
        index_of = {identity: index for index, identity in enumerate(distinct)}
        run = replace(schedule, scales=schedule.scales[:num_steps])
        num_own = sum(not paths[row.path].corrected for row in rows)
        key_values, num_static_steps = self.steps.key_values(num_own, len(rows), run)
        return KVCache(
            paths,
            rows,
            TextConditioning(self.transformer, list(distinct.values()), is_padded=self.is_fused),
            [index_of[id(text)] for text in row_texts],
            key_values=key_values,
            rotation=self._rotation,
            schedule=run,
            extent=self.grids[-1],
            is_fused=self.is_fused,
            num_static_steps=num_static_steps,
        )

    def noise(self, seeds: Sequence[int], schedule: Schedule, num_steps: int) -> Seeds:
        return tuple(seeds)

    def empty_features(self, cache: Cache) -> Tensor:
        shape = (self.config.tokenizer.code_channels, cache.extent.height, cache.extent.width)
        return torch.zeros(len(cache.active.rows.paths), *shape, device=self.device)

    def predict(self, cache: Cache, features: Tensor, step: int) -> Tensor:
        return self.steps.run(cache, features, step, self._predicted)

    def sample(self, cache: Cache, logits: Tensor, noise: Seeds, step: int) -> Tensor:
        seeds = tuple(noise[path] for path in cache.content_of_active())
        return self._draw(logits, StepNoise(seeds, step, self.device), step)

    def couple(
        self, cache: Cache, codes: Tensor, logits: Tensor, noise: Seeds, step: int, coupling: Coupling
    ) -> Tensor:
        # The picture's codes are codes of the codebook, and so are those that stay near to them: no mixtures.
        picture = self.tokenizer.nearest(as_tokens(coupling.codes))
        fresh = StepNoise(tuple(noise[source] for source in coupling.sources), step, self.device)
        tokens = couple_tokens(logits[coupling.paths], logits[coupling.references], picture, fresh)
        drawn = self.tokenizer.codes(tokens, self.grids[step - 1])
        return codes.index_copy(0, coupling.paths, drawn)

    def accumulate(self, cache: Cache, features: Tensor, codes: Tensor, step: int) -> Tensor:
        return cache.keep_active(features) + self.tokenizer.spread(codes, step, self.grids)

    def decode(self, features: Tensor) -> DecodedImages:
        # One after another: on a CPU convolutions then round alike in any batch, and one fills a GPU.
        return DecodedImages(torch.cat([self.tokenizer.decode(feature) for feature in features.split(1)]))

    def decode_preview(self, features: Tensor, schedule: Schedule, step: int) -> DecodedImages:
        # On the scale's own grid the feature is what the next step reads, and decoding costs by the pixel.
        return self.decode(pool(features, self.grids[step - 1]))

    # Styles

    def encode_image(self, image: NDArray[np.uint8], schedule: Schedule, num_steps: int) -> StyleTokens:
        features = self.tokenizer.encode(pixels_of(image, schedule.size, self.device))
        return self._packed(self.tokenizer.quantise(features, self.grids, num_steps))

    def tokens_of_codes(self, codes: Sequence[Tensor]) -> StyleTokens:
        """Of a step that mixes codes, the code that is nearest to each mixture."""
        return self._packed([self.tokenizer.nearest(as_tokens(planes)) for planes in codes])

    def codes_of_tokens(self, tokens: StyleTokens, schedule: Schedule, num_steps: int) -> Sequence[Tensor]:
        if tokens.num_images != 1:
            raise ValueError(f"these are the tokens of {tokens.num_images} pictures, not of one")
        grids = self.grids[:num_steps]
        picture = style.unpack(tokens, self._num_tokens(num_steps), self.config.tokenizer.num_codes)
        parts = send(_indices(picture), self.device).split([grid.num_tokens for grid in grids], dim=1)
        return [self.tokenizer.codes(part, grid) for part, grid in zip(parts, grids, strict=True)]

    def combine_tokens(
        self, tokens: Sequence[StyleTokens], schedule: Schedule, num_steps: int
    ) -> StyleTokens:
        return style.combine(tokens, self._num_tokens(num_steps), self.config.tokenizer.num_codes)

    def decompose(
        self, tokens: StyleTokens, read_at: Schedule, num_steps: int, drawn_at: Schedule
    ) -> StyleFeature:
        pictures = style.unpack(tokens, self._num_tokens(num_steps), self.config.tokenizer.num_codes)
        feature = style.feature_of(self._style_tokenizer, _indices(pictures), self.grids)
        found = style.spectrum_of(feature)
        return StyleFeature(
            tokens,
            self.grids[:num_steps],
            self.grids[-1],
            found.singular_values.float().numpy(),
            found.directions.float().numpy(),
        )

    def style_feature(self, feature: StyleFeature) -> Tensor:
        return style.feature_of(self._style_tokenizer, self._pictures(feature), self.grids).float()

    def style_principal(self, feature: StyleFeature, alpha: float) -> Tensor:
        directions = torch.from_numpy(feature.directions).double()
        return principal(self.style_feature(feature), alpha, directions.T)

    def style_agreement(self, feature: StyleFeature) -> float | None:
        codebook = self._style_tokenizer.codebook.weight
        return style.agreement(codebook, self._pictures(feature), self.grids)

    # Private

    @cached_property
    def _rotation(self) -> Tensor:
        """Of all steps, computed once: runs of fewer read its beginning."""
        config = self.config.transformer
        return rotations(self.grids, config.head_width, config.rope_extent, self.device)

    @cached_property
    def _null_text(self) -> TextFeatures:
        """What an unconditional row reads without a negative prompt."""
        assert self.text_encoders is not None, "this Switti was made without text encoders"
        return self.text_encoders.encode("")

    def _row_text(self, path: Path, conditional: bool) -> TextFeatures:
        if path.text is None:
            return self._null_text
        if conditional:
            return cast(TextFeatures, path.text.conditioning)
        if path.negative is not None:
            return cast(TextFeatures, path.negative.conditioning)
        return self._null_text

    def _predicted(self, active: Rows, features: Tensor, place: Place) -> Predicted:
        x, left = self._through_blocks(self._inputs(active, features, place.step), active, place)
        logits = left.rows.guided(self.transformer.logits(x, left.text.head_modulations), place.step)
        logits = scaled(logits, self.config.sampling, place.step)
        return logits, torch.isfinite(logits).all()

    def _inputs(self, active: Rows, features: Tensor, step: int) -> Tensor:
        """The input tokens of a step, [rows, tokens, width]."""
        if step == 1:
            return active.text.start
        tokens = as_tokens(pool(features, self.grids[step - 1]))
        return self.transformer.inputs(tokens, step)[active.rows.path_of_row]

    def _through_blocks(self, x: Tensor, active: Rows, place: Place) -> tuple[Tensor, Rows]:
        """The rows that the last block leaves, [rows, tokens, width], and which they are."""
        left, blocks = active, cast(list[Block], list(self.transformer.blocks))
        for layer, block in enumerate(blocks):
            if layer == len(blocks) - 1:
                left = place.left or active
            attention = step_attention(active.rows, left.rows, place.layers[layer], is_fused=self.is_fused)
            modulations, num_own = active.text.modulations[layer], active.rows.num_own
            texts = left.text.layers[layer]
            x = self._run_block(block, x, modulations, place.rotation, num_own, attention, texts)
        return x, left

    def _draw(self, logits: Tensor, noise: Noise, step: int) -> Tensor:
        """Codes [paths, channels, h, w] of guided logits."""
        codebook, sampling = self.tokenizer.codebook.weight, self.config.sampling
        codes = draw_codes(logits, noise, codebook, sampling, step, len(self.grids))
        return as_planes(codes, self.grids[step - 1])

    def _num_tokens(self, num_steps: int) -> int:
        return sum(grid.num_tokens for grid in self.grids[:num_steps])

    def _packed(self, tokens: Sequence[Tensor]) -> StyleTokens:
        """Of the tokens [1, tokens] of the first scales, those of one picture."""
        picture = torch.cat(list(tokens), 1).cpu().numpy().astype(np.uint16)
        return style.pack(picture, self.config.tokenizer.num_codes)

    def _pictures(self, feature: StyleFeature) -> Tensor:
        """Tokens [images, tokens] of the pictures of a style."""
        return _indices(style.unpack(feature.tokens, feature.num_tokens, self.config.tokenizer.num_codes))


def require_whole(config: SwittiConfig, decoding: DecodingChoice) -> None:
    """ValueError for decoding in strips, which attention in the decoder forbids."""
    if decoding == "strips":
        raise ValueError(
            f"ATELIER_DECODING is strips, and {config.name} decodes images whole: its decoder has attention "
            "between all parts of an image. Leave it at auto."
        )


def style_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """What style features are computed from, the codebook and the phi convolutions, on the CPU.

    Features are then the same on every device, and any thread may compute them. The rest has no memory.
    """
    if tokenizer.codebook.weight.device.type == "cpu":
        return tokenizer
    with torch.device("meta"):
        held = Tokenizer(tokenizer.config)
    held.codebook = copy.deepcopy(tokenizer.codebook).cpu()
    held.phis = copy.deepcopy(tokenizer.phis).cpu()
    return held


NUM_MARKS = 2  # of the start and the end of a text


def _text(features: TextFeatures) -> Text:
    num_tokens = len(features.states)
    return Text(
        features,
        num_tokens,
        features.states.nbytes + features.pooled.nbytes,
        TextCoverage(num_tokens - NUM_MARKS, features.is_cut),
    )


def _indices(pictures: NDArray[np.uint16]) -> Tensor:
    return torch.from_numpy(pictures.astype(np.int64))
