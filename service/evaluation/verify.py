"""Does our implementation give the reference's numbers? Checks folders laid out like a golden set.

A folder holds `config.json`, `tensors.safetensors` (inputs and expected outputs) and the weights; what is
checked follows from the weight files that are there. Every convention is in the golden README.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.evaluation.recording import Recording
from service.model.backbone import Scale, Size
from service.model.checkpoint import load_into, read_tensors
from service.model.generator import Generator, ImageSpec, Method, Styling, WeightedStyle
from service.model.infinity.config import (
    InfinityConfig,
    SamplingConfig,
    TokenizerConfig,
    TransformerConfig,
)
from service.model.infinity.model import Infinity
from service.model.infinity.names import tokenizer_from_official, transformer_from_official
from service.model.infinity.tokenizer import Tokenizer, accumulated, quantise, resize
from service.model.infinity.transformer import Transformer
from service.model.style import StyleFeature, decompose, feature_of, singular_values

LOGITS, FEATURES, IMAGES = 2e-4, 2e-5, 5e-5  # absolute tolerances (golden README, "Decision margins")


@dataclass(frozen=True, slots=True)
class Check:
    """One tensor compared: `difference` is the largest absolute one; bits must be equal (tolerance 0)."""

    tensor: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # false for NaN


@torch.inference_mode()
def verify(folder: Path) -> list[Check]:
    """Every check of one folder. ValueError when the folder is not laid out like a golden set."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} is not laid out like a golden set: it has no config.json")
    config: dict[str, Any] = json.loads(config_file.read_text())
    expected = read_tensors(folder / "tensors.safetensors")
    if (folder / "transformer.safetensors").is_file():
        return list(_Transformer(folder, config, expected).checks())
    if any(folder.glob("vae_*.safetensors")):
        return list(_tokenizer_checks(folder, config, expected))
    raise ValueError(f"{folder} holds neither transformer.safetensors nor vae_*.safetensors")


def compare(name: str, ours: Tensor, reference: Tensor, tolerance: float) -> Check:
    if ours.shape != reference.shape:
        return Check(f"{name} {list(ours.shape)} for {list(reference.shape)}", float("nan"), tolerance)
    return Check(name, (ours.double() - reference.double()).abs().max().item(), tolerance)


class _Transformer:
    """The sets with a transformer: plain runs, stylised runs, and a tokenizer where one is given."""

    def __init__(self, folder: Path, config: dict[str, Any], expected: Mapping[str, Tensor]) -> None:
        self.config, self.expected = config, expected
        self.folder = folder
        self.patch = 2 if config.get("constructor", {}).get("apply_spatial_patchify") else 1
        self.shape = TransformerConfig(
            depth=config["depth"], width=config["C"], num_heads=config["H"],
            text_channels=config["Ct5"], num_chunks=config["chunks"],
        )  # fmt: skip
        self.tokenizer_shape = _tokenizer_config(config.get("vae", {"codebook_dim": config["d"]}), 16 // self.patch)
        self.transformer = Transformer(self.shape, config["d"] * self.patch**2).eval()
        weights = transformer_from_official(
            _read(folder / "transformer.safetensors"), self.shape.depth // self.shape.num_chunks
        )
        load_into(self.transformer, weights, source=str(folder / "transformer.safetensors"))
        self.tokenizer = _read_tokenizer(folder / "vae.safetensors", self.tokenizer_shape)

    def checks(self) -> Iterator[Check]:
        runs: dict[str, dict[str, Any]] = self.config.get("runs", {})
        for name, run in runs.items():
            yield from self._stylised(name, run) if "alpha" in run else self._plain(name, run)
        if "style_image_u8" in self.expected:
            yield from self._personalised()

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
            name=str(self.config.get("set", "golden")), transformer=self.shape, tokenizer=self.tokenizer_shape,
            sampling=sampling, budget=self.config["pn"], patch=self.patch,
        )  # fmt: skip
        return Infinity(config, self.transformer, self.tokenizer, None, fingerprint="")

    def _texts(self) -> dict[str, Tensor]:
        texts: dict[str, Tensor] = {}
        for kind in ("text", "neg"):
            if f"{kind}.kv_compact" in self.expected:
                parts = self.expected[f"{kind}.kv_compact"].split(self.expected[f"{kind}.lens"].tolist())
                texts |= {f"{kind}{index}": part for index, part in enumerate(parts)}
        return texts

    def _size(self, infinity: Infinity) -> Size:
        last = self.config["scale_schedule"][-1]
        size = Size(last[2] * 16, last[1] * 16)
        if size not in infinity.schedules:
            raise ValueError(f"{self.folder}: no schedule of budget {self.config['pn']} is {size}")
        return size

    def _plain(self, name: str, run: Mapping[str, Any]) -> Iterator[Check]:
        infinity, prompts = self._infinity(run), run.get("prompts", list(range(run["B"])))
        seed = run.get("g_seed", 0)
        joint = seed if "g_seed" in run and len(prompts) > 1 else None
        recording = Recording(infinity, self._texts(), joint_seed=joint, num_images=len(prompts))
        guidance = tuple(run["cfg"]) if isinstance(run["cfg"], list) else run["cfg"]
        negative = "neg0" if "negative" in run else ""
        size = self._size(infinity)
        Generator(recording).generate(
            [ImageSpec(f"text{prompt}", seed, size, negative, guidance) for prompt in prompts]
        )
        yield from self._outcome(name, recording, range(len(prompts)))
        for key, ours in self._intermediate(name, recording).items():
            if key in self.expected:
                yield compare(key, ours, self.expected[key], FEATURES)

    def _outcome(self, name: str, recording: Recording, paths: Sequence[int], source: int | None = None) -> Iterator[Check]:
        bits = torch.stack([recording.path_bits(path, path if source is None else source) for path in paths])
        yield compare(f"{name}.bits", bits, self.expected[f"{name}.bits"], 0)
        yield compare(f"{name}.final", recording.features[-1][list(paths)], self.expected[f"{name}.final"], FEATURES)
        if f"{name}.logits" in self.expected:
            rows = [
                torch.stack([each[path if path < len(each) else source or 0] for path in paths])
                for each in recording.logits
            ]
            reference = self.expected[f"{name}.logits"]
            yield compare(f"{name}.logits", torch.cat(rows, 1)[:, : reference.shape[1]], reference, LOGITS)

    def _intermediate(self, name: str, recording: Recording) -> dict[str, Tensor]:
        features = torch.stack(recording.features)
        grids = recording.feature_grids(next(iter(recording.schedules.values())))
        return {
            f"{name}.summed": features,
            f"{name}.summed_0_2_5": features[[0, 2, 5]],
            f"{name}.next_in_3": resize(recording.features[2], grids[3]),
        }

    def _stylised(self, name: str, run: Mapping[str, Any]) -> Iterator[Check]:
        """A stylised run of a set without a tokenizer: the style's bits are given."""
        infinity = self._infinity(run)
        size = self._size(infinity)
        grids = infinity.feature_grids(infinity.schedules[size])
        style = decompose(self.expected["style.bits"][0].numpy(), grids[: run["pfb_step"]], grids[-1])
        yield compare("style.F_3", feature_of(style)[None], self.expected["style.F_3"], FEATURES)
        yield _spectrum("style.S", style, self.expected["style.S"])
        recording = Recording(infinity, self._texts())
        styling = Styling((WeightedStyle(style),), alpha=run["alpha"], key_step=run["pfb_step"])
        seed = run.get("g_seed", 0)
        Generator(recording).generate([ImageSpec("text0", seed, size, guidance=run["cfg"], styling=styling)])
        yield from self._outcome(name, recording, [1], source=0)
        yield from self._blended(name, name, recording, run["pfb_step"])

    def _blended(self, name: str, before: str, recording: Recording, key_step: int) -> Iterator[Check]:
        start = recording.features[key_step - 1][0]
        if f"{before}.F3_before" in self.expected:
            yield compare(f"{before}.F3_before", start.flatten(1), self.expected[f"{before}.F3_before"], FEATURES)
            yield compare(f"{before}.S_gen", singular_values(start), self.expected[f"{before}.S_gen"], LOGITS)
        after = recording.inputs[key_step][1].flatten(1)
        yield compare(f"{name}.F3_after", after, self.expected[f"{name}.F3_after"], FEATURES)

    def _personalised(self) -> Iterator[Check]:
        """Both paths from a style image to decoded pictures, for every variant of the method."""
        key_step = self.config["pfb_step_1indexed"]
        infinity = self._infinity({"top_k": 1})
        size = self._size(infinity)
        schedule = infinity.schedules[size]
        grids = infinity.feature_grids(schedule)
        image = self.expected["style_image_u8"].numpy()
        bits = infinity.encode_image(image, schedule, len(grids))
        yield compare("style.bits", torch.from_numpy(bits)[None], self.expected["style.bits"], 0)
        split = [part.T.reshape(1, -1, grid.height, grid.width) for part, grid in
                 zip(torch.from_numpy(bits).split([grid.num_tokens for grid in grids]), grids, strict=True)]  # fmt: skip
        yield compare("style.F_last", accumulated(split, grids[-1])[-1], self.expected["style.F_last"], FEATURES)
        style = Generator(Recording(infinity, {})).extract_style(image, size, key_step)
        yield compare("style.F_3", feature_of(style)[None], self.expected["style.F_3"], FEATURES)
        variants = sorted({key.split(".bits")[0] for key in self.expected if key.endswith(".bits")} - {"style"})
        for name in variants:
            yield from self._variant(name, style, size, key_step)

    def _variant(self, name: str, style: StyleFeature, size: Size, key_step: int) -> Iterator[Check]:
        mode, _, variant = name.partition(".")
        sampled = mode == "s"
        infinity = self._infinity({"top_k": self.config["top_k_sampling"] if sampled else 1})
        recording = Recording(infinity, self._texts())
        styling = _styling(variant, style, key_step)
        seed = self.config["seed"] if sampled else 0
        Generator(recording).generate([ImageSpec("text0", seed, size, styling=styling)])
        path = 0 if styling is None else 1
        yield from self._outcome(name, recording, [path], source=0)
        if styling is not None:
            yield from self._blended(name, mode, recording, key_step)
            yield _spectrum(f"{mode}.S_sty", style, self.expected[f"{mode}.S_sty"])
        decoded = infinity.tokenizer.decode(recording.features[-1][path : path + 1])
        yield compare(f"{name}.decoded_s8", decoded[:, :, 3::8, 5::8], self.expected[f"{name}.decoded_s8"], IMAGES)
        if f"{name}.image_u8_bgr_s2" in self.expected:
            ours = torch.from_numpy(infinity.decode(recording.features[-1][path : path + 1])).flip(-1)
            reference = self.expected[f"{name}.image_u8_bgr_s2"]
            yield compare(f"{name}.image_u8_bgr_s2", ours[:, ::2, 1::2], reference, 1)  # truncation


def _styling(variant: str, style: StyleFeature, key_step: int) -> Styling | None:
    """`pfb_sac_a1.0`, `pfb_nosac_a1.0`, `rep_nosac`, `rep_sac` or `content`."""
    if variant == "content":
        return None
    kind, correction, *alpha = variant.split("_")
    method = Method({"pfb": "pfb", "rep": "rep"}[kind] + ("+sac" if correction == "sac" else ""))
    return Styling(
        (WeightedStyle(style),), alpha=float(alpha[0][1:]) if alpha else 1.0, method=method, key_step=key_step
    )


def _spectrum(name: str, style: StyleFeature, reference: Tensor) -> Check:
    """Singular values, padded with the zeros that the decomposition leaves out."""
    ours = torch.zeros_like(reference)
    ours[: len(style.singular_values)] = torch.from_numpy(style.singular_values)
    return compare(name, ours, reference, LOGITS)


def _tokenizer_checks(folder: Path, config: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Iterator[Check]:
    for file in sorted(folder.glob("vae_*.safetensors")):
        name = file.stem.removeprefix("vae_")
        shape = _tokenizer_config(config[name], config[name]["patch_size"])
        tokenizer = _read_tokenizer(file, shape)
        patch = 16 // shape.stride
        grids = [Scale(height, width).times(patch) for _, height, width in config["scale_schedule"]]
        image = expected[f"{name}.image_u8"].permute(2, 0, 1)[None].float() / 255 * 2 - 1
        h = tokenizer.encode(image)
        yield compare(f"{name}.h", h, expected[f"{name}.h"], FEATURES)
        bits = quantise(h, grids)
        flat = torch.cat([each[0].flatten(1).T for each in bits])[None]
        yield compare(f"{name}.bits", flat, expected[f"{name}.bits"], 0)
        features = accumulated(bits, grids[-1])
        yield compare(f"{name}.z", features[-1], expected[f"{name}.z"], FEATURES)
        yield from _tokenizer_features(name, features, grids, patch, bits, expected)
        decoded = tokenizer.decode(expected[f"{name}.z"])
        yield compare(f"{name}.decoded_s4", decoded[:, :, 1::4, 2::4], expected[f"{name}.decoded_s4"], IMAGES)
        yield compare(f"{name}.decoded_crop", decoded[:, :, :48, -48:], expected[f"{name}.decoded_crop"], IMAGES)


def _tokenizer_features(
    name: str, features: Sequence[Tensor], grids: Sequence[Scale], patch: int, bits: Sequence[Tensor],
    expected: Mapping[str, Tensor],
) -> Iterator[Check]:  # fmt: skip
    def as_tokens(planes: Tensor) -> Tensor:
        return torch.nn.functional.pixel_unshuffle(planes, patch).flatten(2).transpose(1, 2)

    inputs = [as_tokens(resize(feature, grid)) for feature, grid in zip(features, grids[1:], strict=False)]
    areas = [
        torch.nn.functional.interpolate(feature, size=(grid.height, grid.width), mode="area")
        for feature, grid in zip(features, grids[1:4], strict=False)
    ]
    ours = {
        "F": torch.stack(list(features)),
        "F_1": features[0],
        "F_3": features[2],
        "tf_inputs": torch.cat(inputs, dim=1),
        **{f"area_in_{index}": area for index, area in enumerate(areas, start=1)},
    }
    for key, tensor in ours.items():
        if f"{name}.{key}" in expected:
            yield compare(f"{name}.{key}", tensor, expected[f"{name}.{key}"], FEATURES)
    if f"{name}.patch_labels" in expected:
        labels = torch.cat([as_tokens(each.float()) for each in bits], dim=1)
        yield compare(f"{name}.patch_labels", labels, expected[f"{name}.patch_labels"], 0)


def _read(file: Path) -> dict[str, Tensor]:
    """Weights of a golden set: float8 on disk, fp32 in the run."""
    return {name: tensor.float() for name, tensor in read_tensors(file).items()}


def _read_tokenizer(file: Path, shape: TokenizerConfig) -> Tokenizer:
    tokenizer = Tokenizer(shape).eval()
    if file.is_file():
        load_into(tokenizer, tokenizer_from_official(_read(file)), source=str(file))
    return tokenizer


def _tokenizer_config(stored: Mapping[str, Any], stride: int) -> TokenizerConfig:
    return TokenizerConfig(
        num_bits=stored["codebook_dim"],
        stride=stride,
        channels=stored.get("base_ch", 32),
        multipliers=tuple(stored.get("ch_mult", (1,))),
        num_blocks=stored.get("num_res_blocks", 1),
    )
