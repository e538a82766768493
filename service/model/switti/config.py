"""The configuration of a Switti: what `config.json` in a model folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

ConfigT = TypeVar("ConfigT")


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
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from error
        config = _read(cls, values, "")
        config._check_steps()
        return config

    def to_json(self) -> str:
        """What `from_json` reads; default files are left out."""
        settings = asdict(self)
        if self.files == FilesConfig():
            del settings["files"]
        return json.dumps(settings, indent=1) + "\n"

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


def _read(cls: type[ConfigT], values: Any, place: str) -> ConfigT:
    """A configuration from what JSON gave. `place` is its own name with a dot, or empty."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{place[:-1] or 'the file'}: must be an object, not {values!r}")
    assert is_dataclass(cls)
    hints, known = get_type_hints(cls), {field.name: field for field in fields(cls)}
    for name in values:
        if name not in known:
            raise ValueError(f"{place}{name}: is not a field")
    for name, field in known.items():
        if name not in values and field.default is MISSING:
            raise ValueError(f"{place}{name}: is missing")
    read = {name: _value(hints[name], value, f"{place}{name}") for name, value in values.items()}
    return cls(**read)


def _value(hint: Any, value: Any, place: str) -> Any:
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _read(hint, value, f"{place}.")
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{place}: must be a list, not {value!r}")
        return tuple(_value(get_args(hint)[0], part, place) for part in value)
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:  # True is no number here
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ValueError(f"{place}: must be {names}, not {value!r}")
    return value
