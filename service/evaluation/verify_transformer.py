"""Checking transformers through the real Generator: plain runs, stylised runs, and every step's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    read_tokenizer,
    read_weights,
    tokenizer_config,
)
from service.evaluation.recording import Recording, Run, layer_outputs
from service.model.checkpoints.loader import load_into
from service.model.device.precision import FULL, Precision
from service.model.engine.generator import Generator
from service.model.engine.types import ImageSpec, Method, Styling, WeightedStyle
from service.model.infinity.backbone import Infinity
from service.model.infinity.config import InfinityConfig, SamplingConfig, TransformerConfig
from service.model.infinity.sampling import draw_noise
from service.model.infinity.style import decompose, feature_of, pack, unpack
from service.model.infinity.transformer import Transformer
from service.model.infinity.weight_names import transformer_from_official
from service.model.schedule import Size
from service.model.style.blending import singular_values
from service.model.style.feature import StyleFeature
from service.model.style.resize import resize


class TransformerSet:
    """The sets with a transformer: plain runs, stylised runs, and a tokenizer where one is given."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        expected: Mapping[str, Tensor],
        precision: Precision = FULL,
        form: Form = ON_CPU,
    ) -> None:
        self.form = form
        self.config, self.expected = config, expected
        self.folder = folder
        self.patch = 2 if config.get("constructor", {}).get("apply_spatial_patchify") else 1
        self.shape = TransformerConfig(
            depth=config["depth"], width=config["C"], num_heads=config["H"],
            text_channels=config["Ct5"], num_chunks=config["chunks"],
        )  # fmt: skip
        self.tokenizer_shape = tokenizer_config(
            config.get("vae", {"codebook_dim": config["d"]}), 16 // self.patch
        )
        self.transformer = Transformer(self.shape, config["d"] * self.patch**2).eval()
        weights = transformer_from_official(
            read_weights(folder / "transformer.safetensors"), self.shape.blocks_per_chunk
        )
        load_into(self.transformer, weights, source=str(folder / "transformer.safetensors"))
        self.transformer.hold_blocks_in(precision.blocks)
        self.tokenizer = read_tokenizer(folder / "vae.safetensors", self.tokenizer_shape)
        self.tokenizer.hold_decoder_in(precision.blocks)
        self.transformer.to(form.device)
        self.tokenizer.to(form.device)

    def checks(self) -> Iterator[Check]:
        runs: dict[str, dict[str, Any]] = self.config.get("runs", {})
        for kind in ("text", "neg"):
            if f"{kind}.lens" in self.expected:
                yield self._lengths(kind)
        for name, run in runs.items():
            yield from self._stylised(name, run) if "alpha" in run else self._plain(name, run)
        if "style_image_u8" in self.expected:
            yield from self._personalised()

    def _lengths(self, kind: str) -> Check:
        """Texts are stored end to end: their lengths and their bounds must agree."""
        bounds = torch.nn.functional.pad(self.expected[f"{kind}.lens"].cumsum(0), (1, 0))
        return compare(f"{kind}.cu_seqlens", bounds, self.expected[f"{kind}.cu_seqlens"], 0)

    def _infinity(self, run: Mapping[str, Any]) -> Infinity:
        tau = run.get("tau", self.config["tau"])
        sampling = SamplingConfig(
            guidance=self.config["cfg"],
            temperature=tuple(tau) if isinstance(tau, list) else tau,
            top_k=run.get("top_k", 900),
            top_p=run.get("top_p", 0.0 if run.get("top_k") == 1 else 0.97),
            guidance_layer=run.get("cfg_insertion_layer", [0])[0],
        )
        config = InfinityConfig(
            name="golden", transformer=self.shape, tokenizer=self.tokenizer_shape,
            sampling=sampling, budget=self.config["pn"], patch=self.patch,
        )  # fmt: skip
        infinity = Infinity(config, self.transformer, self.tokenizer, None, fingerprint="")
        infinity.is_fused = infinity.is_fused or self.form.is_fused
        if self.form.compiler is not None:
            infinity.compile(self.form.compiler)
        return infinity

    def _texts(self) -> dict[str, Tensor]:
        texts: dict[str, Tensor] = {}
        for kind in ("text", "neg"):
            if f"{kind}.kv_compact" in self.expected:
                parts = self.expected[f"{kind}.kv_compact"].split(self.expected[f"{kind}.lens"].tolist())
                texts |= {f"{kind}{index}": part.to(self.form.device) for index, part in enumerate(parts)}
        return texts

    def _size(self, infinity: Infinity) -> Size:
        last = self.config["scale_schedule"][-1]
        size = Size(last[2] * 16, last[1] * 16)
        if size not in infinity.schedules:
            raise ValueError(f"{self.folder}: no schedule of budget {self.config['pn']} is {size}")
        return size

    def runs(self) -> Iterator[Run]:
        """All generation that the set has numbers of."""
        for name, run in self.config.get("runs", {}).items():
            yield self._stylised_run(name, run) if "alpha" in run else self._plain_run(name, run)
        if "style_image_u8" in self.expected:
            style = self._style()
            yield from (self._variant_run(name, style) for name in self._variants())

    def _plain_run(self, name: str, run: Mapping[str, Any]) -> Run:
        infinity, prompts = self._infinity(run), run.get("prompts", list(range(run["B"])))
        seed = run.get("g_seed", 0)
        guidance = tuple(run["cfg"]) if isinstance(run["cfg"], list) else run["cfg"]
        negative = "neg0" if "negative" in run else ""
        size = self._size(infinity)
        specs = tuple(ImageSpec(f"text{prompt}", seed, size, negative, guidance) for prompt in prompts)
        return Run(name, infinity, self._texts(), specs, is_joint="g_seed" in run and len(prompts) > 1)

    def _plain(self, name: str, run: Mapping[str, Any]) -> Iterator[Check]:
        given = self._plain_run(name, run)
        with layer_outputs(given.infinity) as layers:
            recording = given.record()
        yield from self._outcome(name, recording, range(len(given.specs)))
        if f"{name}.noise" in self.expected:
            yield self._noise(name, given.specs[0].seed, given.infinity)
        if name == "g_b1" and "dbg.cond_BD" in self.expected:
            yield from self._layers(layers)
        for key, ours in self._intermediate(name, recording).items():
            if key in self.expected:
                yield compare(key, ours, self.expected[key], FEATURES)

    def _outcome(
        self, name: str, recording: Recording, paths: Sequence[int], source: int | None = None
    ) -> Iterator[Check]:
        bits = torch.stack([recording.path_bits(path, path if source is None else source) for path in paths])
        yield compare(f"{name}.bits", bits, self.expected[f"{name}.bits"], 0)
        final, tolerance = recording.features[-1][list(paths)], FEATURES if source is None else BLENDED
        yield compare(f"{name}.final", final, self.expected[f"{name}.final"], tolerance)
        if f"{name}.logits" in self.expected:
            rows = [
                torch.stack([logit[path if path < len(logit) else source or 0] for path in paths])
                for logit in recording.logits
            ]
            reference = self.expected[f"{name}.logits"]
            yield compare(f"{name}.logits", torch.cat(rows, 1)[:, : reference.shape[1]], reference, LOGITS)

    def _noise(self, name: str, seed: int, infinity: Infinity) -> Check:
        generator = torch.Generator().manual_seed(seed)
        tokens = [scale.num_tokens for scale in infinity.schedules[self._size(infinity)].scales]
        ours = torch.cat([draw_noise(generator, token * infinity.config.bits_per_token) for token in tokens])
        return compare(f"{name}.noise", ours, self.expected[f"{name}.noise"], FEATURES)

    def _layers(self, layers: Mapping[str, list[Tensor]]) -> Iterator[Check]:
        """The inside of one plain run: the condition, the text tokens, and each block at one scale."""
        step, tokens = self.config["debug_scale_index"], self.config["lens"][0]
        depth = self.shape.depth
        ours = {
            "cond_BD": torch.cat(layers["pool"]),
            "cond_gss": layers["modulation"][0].view(2, 1, 6, -1),
            "ca_kv_in": torch.cat([layer[:tokens] for layer in layers["text_in"]]),
            "block_in": layers["block_in"][step * depth],
            "block_out": torch.stack(layers["block_out"][step * depth : (step + 1) * depth]),
        }
        for name, tensor in ours.items():
            yield compare(f"dbg.{name}", tensor, self.expected[f"dbg.{name}"], LOGITS)

    def _intermediate(self, name: str, recording: Recording) -> dict[str, Tensor]:
        features = torch.stack(recording.features)
        grids = recording.feature_grids(next(iter(recording.schedules.values())))
        return {
            f"{name}.summed": features,
            f"{name}.summed_0_2_5": features[[0, 2, 5]],
            f"{name}.next_in_3": resize(recording.features[2], grids[3]),
        }

    def _stylised_run(self, name: str, run: Mapping[str, Any]) -> Run:
        """A stylised run of a set without a tokenizer: the style's bits are given."""
        infinity = self._infinity(run)
        size = self._size(infinity)
        grids = infinity.feature_grids(infinity.schedules[size])
        tokens = pack(self.expected["style.bits"][0].numpy())
        style = decompose(tokens, grids[: run["pfb_step"]], grids[-1], infinity.num_channels)
        styling = Styling((WeightedStyle(style),), alpha=run["alpha"], key_step=run["pfb_step"])
        spec = ImageSpec("text0", run.get("g_seed", 0), size, guidance=run["cfg"], styling=styling)
        return Run(name, infinity, self._texts(), (spec,))

    def _stylised(self, name: str, run: Mapping[str, Any]) -> Iterator[Check]:
        given = self._stylised_run(name, run)
        styling = given.specs[0].styling
        assert styling is not None
        style = styling.styles[0].feature
        yield compare("style.F_3", feature_of(style)[None], self.expected["style.F_3"], FEATURES)
        yield _spectrum("style.S", style, self.expected["style.S"])
        recording = given.record()
        yield from self._outcome(name, recording, [1], source=0)
        yield from self._blended(name, name, recording, run["pfb_step"])

    def _blended(self, name: str, before: str, recording: Recording, key_step: int) -> Iterator[Check]:
        start = recording.features[key_step - 1][0]
        if f"{before}.F3_before" in self.expected:
            yield compare(
                f"{before}.F3_before", start.flatten(1), self.expected[f"{before}.F3_before"], FEATURES
            )
            yield compare(f"{before}.S_gen", singular_values(start), self.expected[f"{before}.S_gen"], LOGITS)
        after = recording.inputs[key_step][1].flatten(1)
        yield compare(f"{name}.F3_after", after, self.expected[f"{name}.F3_after"], BLENDED)

    def _personalised(self) -> Iterator[Check]:
        """Both paths from a style image to decoded pictures, for every variant of the method."""
        infinity = self._infinity({"top_k": 1})
        size = self._size(infinity)
        schedule = infinity.schedules[size]
        grids = infinity.feature_grids(schedule)
        image = self.expected["style_image_u8"].numpy()
        tokens = infinity.encode_image(image, schedule, len(grids))
        bits = unpack(tokens, schedule.num_tokens, infinity.num_channels)
        yield compare("style.bits", torch.from_numpy(bits)[None], self.expected["style.bits"], 0)
        last = feature_of(decompose(tokens, grids, grids[-1], infinity.num_channels))[None]
        yield compare("style.F_last", last, self.expected["style.F_last"], FEATURES)
        style = self._style()
        yield compare("style.F_3", feature_of(style)[None], self.expected["style.F_3"], FEATURES)
        for name in self._variants():
            yield from self._variant(name, style)

    def _style(self) -> StyleFeature:
        infinity = self._infinity({"top_k": 1})
        image = self.expected["style_image_u8"].numpy()
        generator = Generator(infinity)
        return generator.extract_style(image, self._size(infinity), self.config["pfb_step_1indexed"])

    def _variants(self) -> list[str]:
        return sorted({key.split(".bits")[0] for key in self.expected if key.endswith(".bits")} - {"style"})

    def _variant_run(self, name: str, style: StyleFeature) -> Run:
        mode, _, variant = name.partition(".")
        sampled = mode == "s"
        infinity = self._infinity({"top_k": self.config["top_k_sampling"] if sampled else 1})
        styling = _styling(variant, style, self.config["pfb_step_1indexed"])
        seed = self.config["seed"] if sampled else 0
        spec = ImageSpec("text0", seed, self._size(infinity), styling=styling)
        return Run(name, infinity, self._texts(), (spec,))

    def _variant(self, name: str, style: StyleFeature) -> Iterator[Check]:
        given = self._variant_run(name, style)
        infinity, spec, recording = given.infinity, given.specs[0], given.record()
        path = 0 if spec.styling is None else 1
        yield from self._outcome(name, recording, [path], source=0)
        if f"{name}.noise" in self.expected:
            yield self._noise(name, spec.seed, infinity)
        if spec.styling is not None:
            yield from self._blended(name, name[0], recording, self.config["pfb_step_1indexed"])
            yield _spectrum(f"{name[0]}.S_sty", style, self.expected[f"{name[0]}.S_sty"])
        decoded = infinity.tokenizer.decode(recording.features[-1][path : path + 1])
        yield compare(
            f"{name}.decoded_s8", decoded[:, :, 3::8, 5::8], self.expected[f"{name}.decoded_s8"], IMAGES
        )
        if f"{name}.image_u8_bgr_s2" in self.expected:
            ours = torch.from_numpy(infinity.decode(recording.features[-1][path : path + 1]).images()).flip(
                -1
            )
            reference = self.expected[f"{name}.image_u8_bgr_s2"]
            yield compare(f"{name}.image_u8_bgr_s2", ours[:, ::2, 1::2], reference, 1)  # truncation


def _styling(variant: str, style: StyleFeature, key_step: int) -> Styling | None:
    """`pfb_sac_a1.0`, `pfb_nosac_a1.0`, `rep_nosac`, `rep_sac` or `content`."""
    if variant == "content":
        return None
    kind, correction, *alpha = variant.split("_")
    method = Method(f"{kind}+sac" if correction == "sac" else kind)
    return Styling(
        (WeightedStyle(style),), alpha=float(alpha[0][1:]) if alpha else 1.0, method=method, key_step=key_step
    )


def _spectrum(name: str, style: StyleFeature, reference: Tensor) -> Check:
    """Singular values, padded with the zeros that the decomposition leaves out."""
    ours = torch.zeros_like(reference)
    ours[: len(style.singular_values)] = torch.from_numpy(style.singular_values)
    return compare(name, ours, reference, LOGITS)
