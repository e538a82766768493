"""The configuration of a Switti: what `config.json` in a model folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from service.model.checkpoints.config_file import read_dataclass
from service.model.engine.quality import ALL_EXACT, Qualities, Shortcuts

FAMILY_NAME = "switti"  # in config.json


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """`is_causal`: a scale attends to the scales before it, too (the -AR variants); else to itself alone."""

    depth: int
    width: int
    num_heads: int
    is_causal: bool
    text_channels: int = 2048  # CLIP ViT-L's 768 and OpenCLIP bigG's 1280
    pooled_channels: int = 1280  # bigG's
    max_text_tokens: int = 77
    rope_extent: int = 128  # every scale spans positions 0 to this

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads

    @property
    def feedforward_width(self) -> int:
        return int(self.width * (8 / 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    num_codes: int
    code_channels: int
    channels: int
    multipliers: tuple[int, ...]
    num_blocks: int
    num_groups: int = 32  # of every group norm

    @property
    def stride(self) -> int:
        """Pixels on a side that one token covers."""
        return int(2 ** (len(self.multipliers) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Guidance grows from 1 at the first step towards 1 + `guidance_growth` at the last.

    The first `num_guided_steps` are guided. From `smooth_start_step` on the guided ones mix codes instead of
    drawing one (None: none does). What is not guided is drawn at `last_temperature`.
    """

    guidance_growth: float = 6.0
    num_guided_steps: int
    top_k: int = 400
    top_p: float = 0.95
    smooth_start_step: int | None = 3
    last_temperature: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleConfig:
    key_step: int = 3
    alpha: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesConfig:
    """Where the weights are, relative to the model's folder: files, or folders of shards."""

    transformer: str = "transformer.safetensors"
    tokenizer: str = "tokenizer.safetensors"
    text_encoder: str = "text_encoder"  # a folder: CLIP ViT-L/14
    pooled_text_encoder: str = "pooled_text_encoder"  # a folder: OpenCLIP bigG/14


@dataclass(frozen=True, slots=True, kw_only=True)
class SwittiConfig:
    name: str
    transformer: TransformerConfig
    tokenizer: TokenizerConfig
    sampling: SamplingConfig
    grids: tuple[int, ...]  # sides of the square token grids, coarse to fine
    style: StyleConfig = StyleConfig()
    files: FilesConfig = FilesConfig()

    @classmethod
    def from_json(cls, text: str | bytes) -> SwittiConfig:
        """Read a `config.json`; ValueError names the field that is missing, unknown or wrong."""
        settings = json.loads(text)
        if not isinstance(settings, Mapping) or settings.get("family") != FAMILY_NAME:
            raise ValueError(f"family: must be {FAMILY_NAME!r}")
        return cls.from_settings({name: value for name, value in settings.items() if name != "family"})

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> SwittiConfig:
        """The same from JSON that is parsed already, without `family`."""
        config = read_dataclass(cls, settings)
        config._check_steps()
        return config

    def to_json(self) -> str:
        """What `from_json` reads; default files are left out."""
        settings = {"family": FAMILY_NAME, **asdict(self)}
        if self.files == FilesConfig():
            del settings["files"]
        return json.dumps(settings, indent=1) + "\n"

    def qualities(self) -> Qualities:
        """What the model leaves out at each quality.

        Guidance ends before the last steps as it is, which is why `medium` leaves out nothing. The last scale
        is nearly half of all tokens, and what it adds to the feature is fine: `low` leaves it out.
        """
        last = len(self.grids) - 1
        return Qualities(low=Shortcuts(stop_after=last)) if last > self.style.key_step else ALL_EXACT

    @property
    def pixels(self) -> int:
        """Width and height of an image."""
        return self.grids[-1] * self.tokenizer.stride

    def _check_steps(self) -> None:
        num_steps = len(self.grids)
        if num_steps < 2 or list(self.grids) != sorted(set(self.grids)) or self.grids[0] < 1:
            raise ValueError("grids: must be at least two sides, each larger than the one before")
        if not 1 <= self.style.key_step < num_steps:
            raise ValueError(
                f"style.key_step: must be from 1 to {num_steps - 1}, one less than the steps of the "
                f"schedule, not {self.style.key_step}"
            )
        if self.transformer.head_width * self.transformer.num_heads != self.transformer.width:
            raise ValueError("transformer.num_heads: must divide transformer.width")
        if self.transformer.head_width % 4 or self.transformer.width % 8:
            raise ValueError("transformer.width: a head must have a multiple of 4 channels")
