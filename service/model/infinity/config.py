"""The configuration of an Infinity: what `config.json` in a model folder holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from service.model.checkpoints.config_file import read_dataclass
from service.model.engine.quality import ALL_EXACT, Qualities, Shortcuts
from service.model.engine.types import Vocabulary
from service.model.infinity import schedules as scales
from service.model.schedule import Schedule, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    depth: int
    width: int
    num_heads: int
    text_channels: int
    num_chunks: int = 1  # blocks are stored in this many equal chunks
    max_text_tokens: int = 512
    max_scales: int = 15
    num_positions: int = 0  # learned ones, of the tokens of its one schedule; 0: none

    @property
    def blocks_per_chunk(self) -> int:
        return self.depth // self.num_chunks

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads

    @property
    def feedforward_width(self) -> int:
        return round(4 * self.width / 256) * 256

    @property
    def num_pool_heads(self) -> int:
        """Heads of the text pooling: from the text's width, not the transformer's (golden README, 1.2)."""
        return self.text_channels // (64 if self.width > 4096 else 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    num_bits: int
    stride: int
    channels: int
    multipliers: tuple[int, ...]
    num_blocks: int
    num_groups: int = 32  # of every group norm


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    guidance: float
    temperature: float | tuple[float, ...]  # one value, or one a step
    # The share of (guidance - 1) that the steps after the key step have: what guidance adds pulls them from
    # the style to the prompt.
    fine_guidance: float = 1.0
    top_k: int = 900
    top_p: float = 0.97
    guidance_layer: int = 0  # 0: on the logits; -n: on the output of the block n-th from the end

    def temperature_at(self, step: int) -> float:
        return self.temperature[step - 1] if isinstance(self.temperature, tuple) else self.temperature


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleConfig:
    key_step: int = 3
    alpha: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyConfig(Vocabulary):
    """Of a model that knows few words."""

    fillers: tuple[str, ...] = ()  # words it knows that name nothing by themselves: "a", "of"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesConfig:
    """Where the weights are, relative to the model's folder: files, or folders of shards."""

    transformer: str = "transformer.safetensors"
    tokenizer: str = "tokenizer.safetensors"
    text_encoder: str = "text_encoder"  # a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class InfinityConfig:
    name: str
    transformer: TransformerConfig
    tokenizer: TokenizerConfig
    sampling: SamplingConfig
    style: StyleConfig = StyleConfig()
    quality: Qualities | None = None  # None: by the budget; exact with schedules of one's own
    budget: str | None = None  # one of the official pixel budgets, or
    grids: tuple[tuple[tuple[int, int], ...], ...] = ()  # schedules of one's own
    patch: int = 1  # tokenizer cells on a side that one transformer token covers
    vocabulary: VocabularyConfig | None = None  # None: any word may mean something
    files: FilesConfig = FilesConfig()

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> InfinityConfig:
        """Of a parsed `config.json`; ValueError names the field that is missing, unknown or wrong."""
        config = read_dataclass(cls, settings)
        if (config.budget is None) == (not config.grids):
            raise ValueError('give either budget (such as "1M") or grids, and not both')
        if config.budget is not None and config.budget not in scales.BUDGETS:
            raise ValueError(f"budget: must be one of {', '.join(scales.BUDGETS)}, not {config.budget!r}")
        config._check_steps()
        return config

    def to_json(self) -> str:
        """What `from_settings` reads, as text; settings that are not given are left out."""
        settings = {name: value for name, value in asdict(self).items() if value is not None}
        if self.quality is not None:
            settings["quality"] = {
                name: {field: value for field, value in shortcuts.items() if value is not None}
                for name, shortcuts in settings["quality"].items()
            }
        if self.files == FilesConfig():
            del settings["files"]
        return json.dumps(settings, indent=1) + "\n"

    def _check_steps(self) -> None:
        counts = {scales.BUDGETS[self.budget]} if self.budget else {len(grids) for grids in self.grids}
        fewest, most = min(counts), max(counts)
        if not 1 <= self.style.key_step < fewest:
            raise ValueError(
                f"style.key_step: must be from 1 to {fewest - 1}, one less than the steps of the shortest "
                f"schedule, not {self.style.key_step}"
            )
        for name, shortcuts in self.qualities().shortcuts().items():
            try:
                shortcuts.check(key_step=self.style.key_step, num_steps=fewest)
            except ValueError as error:
                raise ValueError(f"quality.{name}.{error}") from error
        if most > self.transformer.max_scales:
            raise ValueError(
                f"transformer.max_scales: must be at least {most}, the steps of the longest schedule"
            )
        temperature = self.sampling.temperature
        if isinstance(temperature, tuple) and len(temperature) < most:
            raise ValueError(f"sampling.temperature: has {len(temperature)} values for {most} steps")

    @property
    def bits_per_token(self) -> int:
        return self.tokenizer.num_bits * self.patch**2

    def qualities(self) -> Qualities:
        """What the model leaves out at each quality."""
        if self.quality is not None:
            return self.quality
        return BY_BUDGET[self.budget] if self.budget else ALL_EXACT

    def schedules(self) -> dict[Size, Schedule]:
        """The native sizes; the first is the default."""
        if self.budget is not None:
            return scales.schedules(self.budget)
        stride = self.tokenizer.stride * self.patch
        own = [scales.custom_schedule(grids, stride) for grids in self.grids]
        return {schedule.size: schedule for schedule in own}


BY_BUDGET: dict[str, Qualities] = {
    # 16 x 16 tokens are few: only the last scale can be spared.
    "0.06M": Qualities(medium=Shortcuts(guidance_until=5), low=Shortcuts(guidance_until=4, stop_after=6)),
    "0.25M": Qualities(medium=Shortcuts(guidance_until=8), low=Shortcuts(guidance_until=6, stop_after=8)),
    "0.60M": Qualities(medium=Shortcuts(guidance_until=10), low=Shortcuts(guidance_until=8, stop_after=10)),
    "1M": Qualities(medium=Shortcuts(guidance_until=11), low=Shortcuts(guidance_until=9, stop_after=11)),
}
