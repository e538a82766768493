"""Checking Switti against the reference: image tokenizer, both variants' plain runs, and the method on them.

The runs of a set are drawn by the engine itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.evaluation.checks import (
    BLENDED,
    FEATURES,
    IMAGES,
    LOGITS,
    ON_CPU,
    Check,
    Form,
    compare,
    read_weights,
)
from service.model.checkpoints.loader import load_into
from service.model.device.transfer import DecodedImages
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Styling, Text, WeightedStyle
from service.model.switti.backbone import Cache, Seeds, Switti
from service.model.switti.config import SamplingConfig, SwittiConfig, TokenizerConfig, TransformerConfig
from service.model.switti.sampling import draw_tokens, is_smooth
from service.model.switti.schedules import square_scales
from service.model.switti.style import spectrum_of
from service.model.switti.text_encoders import TextFeatures
from service.model.switti.tokenizer import Tokenizer
from service.model.switti.transformer import Transformer
from service.model.switti.weight_names import tokenizer_from_official, transformer_from_official

# Where codes are mixed and not drawn, rounding reaches the features: the same runs in fp64 end 3e-5 from ours
# and 2e-5 from the reference's.
MIXED = 5e-5
_KEY_STEP = 3  # of the set's runs with a style; alpha is 1
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


class RecordingSwitti(Switti):
    """A Switti that draws one image at a time from given noise and texts, and keeps what its last path did.

    Without a style that is its only path, with one the generation path. Lists have an entry a step.
    """

    def __init__(
        self, config: SwittiConfig, transformer: Transformer, tokenizer: Tokenizer, noise: Tensor,
        texts: Sequence[TextFeatures],
    ) -> None:  # fmt: skip
        """`noise` [tokens, codes] is of all steps; `texts` are the prompt's and the null prompt's."""
        super().__init__(config, transformer, tokenizer, None, fingerprint="0" * 16)
        self._noise, self._prompt, self._null_text = noise, texts[0], texts[1]
        self.logits: list[Tensor] = []  # [1, tokens, codes], guided, at their temperature
        self.tokens: list[Tensor | None] = []  # [1, tokens]; None where codes are mixed
        self.sums: list[Tensor] = []  # [1, code channels, H, W], before any blending
        self.inputs: list[Tensor] = []  # of each step: the features it started from

    @property
    def features(self) -> list[Tensor]:
        """After each step, at the key step after blending."""
        return [*self.inputs[1:], self.sums[-1]]

    def encode_texts(self, prompts: Sequence[str]) -> Sequence[Text]:
        return [Text(self._prompt, len(self._prompt.states), 0) for _ in prompts]

    def predict(self, cache: Cache, features: Tensor, step: int) -> Tensor:
        self.inputs.append(features[-1:])
        logits = super().predict(cache, features, step)
        self.logits.append(logits[-1:])
        return logits

    def sample(self, cache: Cache, logits: Tensor, noise: Seeds, step: int) -> Tensor:
        start, sampling = self._num_tokens(step - 1), self.config.sampling
        given = GivenNoise(self._noise[start : start + self.grids[step - 1].num_tokens][None])
        tokens = None
        if not is_smooth(sampling, step):
            tokens = draw_tokens(logits, given, top_k=sampling.top_k, top_p=sampling.top_p)[-1:]
        self.tokens.append(tokens)
        return self._draw(logits, given, step)

    def accumulate(self, cache: Cache, features: Tensor, codes: Tensor, step: int) -> Tensor:
        after = super().accumulate(cache, features, codes, step)
        self.sums.append(after[-1:])
        return after

    def decode(self, features: Tensor) -> DecodedImages:
        """The set has no images of its runs."""
        return DecodedImages(torch.zeros(len(features), 3, 1, 1))


class SwittiSet:
    """A golden set of Switti: one set of weights, run as both variants."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor], form: Form = ON_CPU
    ) -> None:
        self.config, self.form = config, form
        self.expected = {name: tensor.to(form.device) for name, tensor in expected.items()}
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
        for module in (self.tokenizer, *self.transformers.values()):
            module.to(form.device)

    def texts(self) -> list[TextFeatures]:
        """The prompt and the null prompt, without what is masked."""
        states, pooled = self.expected["ctx_f8"].float(), self.expected["pooled"]
        seen = self.expected["attn_bias"] == 0
        return [TextFeatures(states[row, seen[row]], pooled[row]) for row in range(len(states))]

    def draw(self, variant: str, run: Mapping[str, Any], *, is_styled: bool) -> RecordingSwitti:
        """One run by the engine, with the set's picture as its style if it has one."""
        transformer = self.transformers[variant]
        config = SwittiConfig(
            name=variant,
            transformer=transformer.config,
            tokenizer=self.tokenizer.config,
            sampling=self.sampling(run),
            grids=tuple(self.config["pns"]),
        )
        noise, texts = self.expected["nar.s.noise"], self.texts()
        recording = RecordingSwitti(config, transformer, self.tokenizer, noise, texts)
        recording.is_fused = recording.is_fused or self.form.is_fused
        if self.form.compiler is not None:
            recording.compile(self.form.compiler)
        generator = Generator(recording)
        (size,) = generator.sizes
        styling = None
        if is_styled:
            picture = self.expected["image_u8"].cpu().numpy()
            styling = Styling((WeightedStyle(generator.extract_style(picture, size)),))
        generator.generate([ImageSpec("the prompt", 0, size, styling=styling)])
        return recording

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
        yield from self._tokenizer_checks()
        runs: Mapping[str, Any] = self.config["runs"]
        for variant in self.transformers:
            for name, run in runs.items():
                # A run in words is another one with the method added: "g + PFB (alpha 1, ...) + SAC".
                is_styled = not isinstance(run, Mapping)
                settings = runs[run.split()[0]] if is_styled else run
                drawn = self.draw(variant, settings, is_styled=is_styled)
                yield from self._run_checks(f"{variant}.{name}", drawn, is_styled=is_styled)

    def _tokenizer_checks(self) -> Iterator[Check]:
        """Of the image."""
        pixels = self.expected["image_u8"].permute(2, 0, 1)[None].float() / 255 * 2 - 1
        features = self.tokenizer.encode(pixels)
        yield compare("vae.f", features, self.expected["vae.f"], FEATURES)
        tokens = self.tokenizer.quantise(features, self.grids)
        yield compare("vae.idx", torch.cat(tokens, 1), self.expected["vae.idx"], 0)
        accumulated = torch.cat(self.tokenizer.accumulated(tokens, self.grids))
        yield compare("vae.fhat", accumulated, self.expected["vae.fhat"], FEATURES)
        images = self.tokenizer.decode(accumulated[-1:])
        yield compare("vae.rec_s2", images[:, :, ::2, 1::2], self.expected["vae.rec_s2"], IMAGES)

    def _run_checks(self, name: str, drawn: RecordingSwitti, *, is_styled: bool) -> Iterator[Check]:
        tokens = torch.cat([tokens for tokens in drawn.tokens if tokens is not None], 1)
        yield compare(f"{name}.idx", tokens, self.expected[f"{name}.idx"], 0)
        is_mixed = any(tokens is None for tokens in drawn.tokens)
        tolerance = BLENDED if is_styled else MIXED if is_mixed else FEATURES
        blended, after = drawn.sums[_KEY_STEP - 1][0], drawn.features[_KEY_STEP - 1][0].flatten(1)
        before, spectrum = blended.flatten(1), spectrum_of(blended).singular_values
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
def switti_checks(
    folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor], form: Form = ON_CPU
) -> Iterator[Check]:
    """Every check of a folder laid out like golden/switti_tiny. KeyError: a tensor or setting is missing."""
    return SwittiSet(folder, config, expected, form).checks()
