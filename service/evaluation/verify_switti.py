"""Checking Switti against the reference: image tokenizer, both variants' plain runs, and the method on them.

The runs of a set are repeated by a plain loop over the networks themselves, one prompt at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.evaluation.checks import BLENDED, FEATURES, IMAGES, LOGITS, Check, compare, read_weights
from service.model.checkpoints.loader import load_into
from service.model.schedule import Scale
from service.model.switti.attention import StepAttention
from service.model.switti.config import SamplingConfig, TokenizerConfig, TransformerConfig
from service.model.switti.kv_cache import KeyValueCache
from service.model.switti.rope import rotations
from service.model.switti.sampling import (
    draw_tokens,
    guidance_of_steps,
    guided,
    is_smooth,
    mix_codes,
    ratio_of,
    scaled,
)
from service.model.switti.schedules import square_scales
from service.model.switti.style import decompose, feature_of, principal
from service.model.switti.text_conditioning import RowConditioning, TextConditioning
from service.model.switti.text_encoders import TextFeatures
from service.model.switti.tokenizer import Tokenizer, as_planes, as_tokens, pool
from service.model.switti.transformer import Transformer
from service.model.switti.weight_names import tokenizer_from_official, transformer_from_official

# Where codes are mixed and not drawn, rounding reaches the features: the same runs in fp64 end 3e-5 from ours
# and 2e-5 from the reference's.
MIXED = 5e-5
_KEY_STEP, _ALPHA = 3, 1.0  # of the set's runs with a style
_HALVES = 2  # rows of a path: the prompt's and the null prompt's
# Tensors of the set that go in; every other one is compared.
INPUTS = frozenset({"image_u8", "ctx_f8", "attn_bias", "pooled", "nar.s.noise"})


@dataclass(frozen=True, slots=True)
class GivenNoise:
    """Noise that is written down: [images, tokens, codes]."""

    values: Tensor

    def of_all(self, num_tokens: int, num_codes: int) -> Tensor:
        assert self.values.shape[1:] == (num_tokens, num_codes)
        return self.values

    def of(self, codes: Tensor) -> Tensor:
        return self.values.expand(len(codes), -1, -1).gather(-1, codes)


@dataclass(slots=True)
class Drawn:
    """What one run leaves, of its last path: without a style the only one. Lists have a step each."""

    logits: list[Tensor]  # [1, tokens, codes], guided, at their temperature
    tokens: list[Tensor | None]  # [1, tokens]; None where codes are mixed
    features: list[Tensor]  # [1, code channels, H, W]; at the key step after blending
    before_blending: Tensor  # [code channels, H, W]


@dataclass(frozen=True, slots=True)
class Networks:
    """A transformer of one variant, an image tokenizer, and the grids that they are run on."""

    transformer: Transformer
    tokenizer: Tokenizer
    grids: tuple[Scale, ...]

    def draw(
        self,
        texts: TextConditioning,
        sampling: SamplingConfig,
        noise: Tensor,
        style: Tensor | None = None,
    ) -> Drawn:
        """Draw one image. `noise` [tokens, codes] is of all scales; `style` [code channels, H, W].

        With a style a generation path forks off after the key step: its feature is blended, and its
        attention corrected by the content path's.
        """
        config, extent = self.tokenizer.config, self.grids[-1]
        features = torch.zeros(1, config.code_channels, extent.height, extent.width)
        loop = _Loop(self, texts, num_paths=1 if style is None else 2)
        drawn = Drawn([], [], [], features[0])
        for step, grid in enumerate(self.grids, start=1):
            logits = loop.predict(features, step, sampling)
            step_noise = GivenNoise(noise[loop.num_tokens - grid.num_tokens : loop.num_tokens][None])
            tokens, codes = self._sample(logits, step_noise, sampling, step)
            features = features + self.tokenizer.spread(as_planes(codes, grid), step, self.grids)
            if step == _KEY_STEP:
                drawn.before_blending = features[0]
                if style is not None:
                    features = torch.cat([features, _blended(features[0], style)[None]])
                    loop.fork()
            drawn.logits.append(logits[-1:])
            drawn.tokens.append(None if tokens is None else tokens[-1:])
            drawn.features.append(features[-1:])
        return drawn

    def _sample(
        self, logits: Tensor, noise: GivenNoise, sampling: SamplingConfig, step: int
    ) -> tuple[Tensor | None, Tensor]:
        codebook = self.tokenizer.codebook.weight
        if is_smooth(sampling, step):
            return None, mix_codes(logits, noise, codebook, ratio_of(step, len(self.grids)))
        tokens = draw_tokens(logits, noise, top_k=sampling.top_k, top_p=sampling.top_p)
        return tokens, codebook[tokens]


class _Loop:
    """The state of one run: rows are content and generation path, each with its two halves."""

    def __init__(self, networks: Networks, texts: TextConditioning, num_paths: int) -> None:
        self._networks, self._texts = networks, texts
        self._num_paths, self._most_paths = 1, num_paths
        transformer = networks.transformer
        self._rotation = rotations(
            networks.grids, transformer.config.head_width, transformer.config.rope_extent, torch.device("cpu")
        )
        self.num_tokens = 0
        self._cache = KeyValueCache.empty(
            transformer.config,
            num_own=_HALVES,
            num_rows=_HALVES * num_paths,
            num_tokens=sum(grid.num_tokens for grid in networks.grids),
            device=torch.device("cpu"),
        )

    def fork(self) -> None:
        """Let the generation path start from the content path's state."""
        self._cache.fork([row % _HALVES for row in range(_HALVES * self._most_paths)])
        self._num_paths = self._most_paths

    def predict(self, features: Tensor, step: int, sampling: SamplingConfig) -> Tensor:
        """Logits of each path, [paths, tokens, codes], guided and at their temperature."""
        is_guided = step <= sampling.num_guided_steps
        num_halves = _HALVES if is_guided else 1
        assert is_guided or self._num_paths == 1, "rows without guidance would not be a prefix"
        conditioning = self._texts.of_rows([*range(num_halves)] * self._num_paths)
        transformer, grid = self._networks.transformer, self._networks.grids[step - 1]
        if step == 1:
            x = conditioning.start
        else:
            inputs = transformer.inputs(as_tokens(pool(features, grid)), step)
            x = inputs.repeat_interleave(num_halves, 0)
        x = self._through_blocks(x, conditioning, num_halves)
        logits = transformer.logits(x, conditioning.head_modulations).unflatten(0, (-1, num_halves))
        if is_guided:
            guidance = guidance_of_steps(sampling, len(self._networks.grids))[step - 1]
            return guided(logits[:, 0], logits[:, 1], guidance)
        return scaled(logits[:, 0], sampling, step)

    def _through_blocks(self, x: Tensor, conditioning: RowConditioning, num_own: int) -> Tensor:
        num_rows, num_new = x.shape[:2]
        rotation = self._rotation[:, self.num_tokens : self.num_tokens + num_new]
        sources = tuple(row % num_own for row in range(num_rows))
        for layer, block in enumerate(self._networks.transformer.blocks):
            cached = self._cache.layer(layer, num_own, num_rows, num_new)
            attention = StepAttention(sources, cached=cached)
            modulations, read = conditioning.modulations[layer], conditioning.read_text[layer]
            x = block(x, modulations, rotation, num_own, attention.attend, read)
        self.num_tokens += num_new
        self._cache.num_tokens = self.num_tokens
        return x


class SwittiSet:
    """A golden set of Switti: one set of weights, run as both variants."""

    def __init__(self, folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
        self.config, self.expected = config, expected
        self.grids = square_scales(config["pns"])
        shape = TokenizerConfig(
            num_codes=config["V"], code_channels=config["Cvae"], channels=config["ch"],
            multipliers=tuple(config["mult"]), num_blocks=config["nrb"],
        )  # fmt: skip
        self.tokenizer = Tokenizer(shape).eval()
        weights = tokenizer_from_official(read_weights(folder / "vqvae.safetensors"))
        load_into(self.tokenizer, weights, source=str(folder / "vqvae.safetensors"))
        causal = TransformerConfig(
            depth=config["depth"], width=config["C"], num_heads=config["H"], is_causal=True,
            rope_extent=config["rope"]["size"],
        )  # fmt: skip
        self.transformers = {
            "nar": Transformer(replace(causal, is_causal=False), shape, len(self.grids)).eval(),
            "ar": Transformer(causal, shape, len(self.grids)).eval(),
        }
        for transformer in self.transformers.values():
            weights = transformer_from_official(read_weights(folder / "switti.safetensors"))
            load_into(transformer, weights, source=str(folder / "switti.safetensors"))

    def texts(self) -> list[TextFeatures]:
        """The prompt and the null prompt, without what is masked."""
        states, pooled = self.expected["ctx_f8"].float(), self.expected["pooled"]
        seen = self.expected["attn_bias"] == 0
        return [TextFeatures(states[row, seen[row]], pooled[row]) for row in range(len(states))]

    def networks(self, variant: str) -> Networks:
        return Networks(self.transformers[variant], self.tokenizer, self.grids)

    def sampling(self, run: Mapping[str, Any]) -> SamplingConfig:
        return SamplingConfig(
            guidance_growth=self.config["cfg"],
            num_guided_steps=min(run["turn_off"], len(self.grids)),
            top_k=run["top_k"],
            top_p=run["top_p"],
            smooth_start_step=run["smooth_start_si"] + 1 if run.get("more_smooth") else None,
            last_temperature=run.get("last_scale_temp", 1.0),
        )

    def checks(self) -> Iterator[Check]:
        """A check for each tensor of the set but its inputs."""
        tokens = yield from self._tokenizer_checks()
        style = feature_of(self.tokenizer, torch.cat(tokens[:_KEY_STEP], 1)[0], self.grids).float()
        runs: Mapping[str, Any] = self.config["runs"]
        for variant, transformer in self.transformers.items():
            texts = TextConditioning(transformer, self.texts())
            for name, run in runs.items():
                # A run in words is another one with the method added: "g + PFB (alpha 1, ...) + SAC".
                settings = run if isinstance(run, Mapping) else runs[run.split()[0]]
                own_style = None if isinstance(run, Mapping) else style
                drawn = self.networks(variant).draw(
                    texts, self.sampling(settings), self.expected["nar.s.noise"], own_style
                )
                yield from self._run_checks(f"{variant}.{name}", drawn, is_styled=own_style is not None)

    def _tokenizer_checks(self) -> Generator[Check, None, list[Tensor]]:
        """Of the image; returns its tokens, a scale each."""
        pixels = self.expected["image_u8"].permute(2, 0, 1)[None].float() / 255 * 2 - 1
        features = self.tokenizer.encode(pixels)
        yield compare("vae.f", features, self.expected["vae.f"], FEATURES)
        tokens = self.tokenizer.quantise(features, self.grids)
        yield compare("vae.idx", torch.cat(tokens, 1), self.expected["vae.idx"], 0)
        accumulated = torch.cat(self.tokenizer.accumulated(tokens, self.grids))
        yield compare("vae.fhat", accumulated, self.expected["vae.fhat"], FEATURES)
        images = self.tokenizer.decode(accumulated[-1:])
        yield compare("vae.rec_s2", images[:, :, ::2, 1::2], self.expected["vae.rec_s2"], IMAGES)
        return tokens

    def _run_checks(self, name: str, drawn: Drawn, *, is_styled: bool) -> Iterator[Check]:
        tokens = torch.cat([tokens for tokens in drawn.tokens if tokens is not None], 1)
        yield compare(f"{name}.idx", tokens, self.expected[f"{name}.idx"], 0)
        is_mixed = any(tokens is None for tokens in drawn.tokens)
        tolerance = BLENDED if is_styled else MIXED if is_mixed else FEATURES
        before, after = drawn.before_blending.flatten(1), drawn.features[_KEY_STEP - 1][0].flatten(1)
        spectrum = decompose(drawn.before_blending).singular_values
        of_run = {
            "fhat_last": (drawn.features[-1], tolerance),
            "fhat": (torch.cat(drawn.features), tolerance),
            "logits": (torch.cat(drawn.logits, 1), LOGITS),
            "logits_last": (drawn.logits[-1], LOGITS),
            "F3_before": (before, FEATURES),
            "F3_after": (after, BLENDED),
            "S_gen": (spectrum, LOGITS),
        }
        for part, (ours, bound) in of_run.items():
            if f"{name}.{part}" in self.expected:
                yield compare(f"{name}.{part}", ours, self.expected[f"{name}.{part}"], bound)


@torch.inference_mode()
def switti_checks(folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Iterator[Check]:
    """Every check of a folder laid out like golden/switti_tiny. KeyError: a tensor or setting is missing."""
    return SwittiSet(folder, config, expected).checks()


def _blended(feature: Tensor, style: Tensor) -> Tensor:
    """Principal Feature Blending (paper, section 4.2) of a feature with a style's [code channels, H, W]."""
    ours, theirs = (principal(part, decompose(part).directions, _ALPHA) for part in (feature, style))
    return feature + theirs - ours
