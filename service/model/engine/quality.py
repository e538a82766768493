"""Quality: what an image may be drawn without. By default nothing, and then the image is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Quality(StrEnum):
    """What a client asks for; a model says what it leaves out at all but the first."""

    HIGH = "high"  # exact, for every model
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """What a batch leaves out; None leaves nothing out. Steps count from 1.

    `guidance_until`: the last step with guidance. After it only the conditional half of each path is
    computed, which is what guidance 1 means. Until then nothing changes, to the bit.

    `stop_after`: the last step. The image is the feature after it, decoded at full size: a sum of fewer
    terms, and as valid an image.
    """

    guidance_until: int | None = None
    stop_after: int | None = None

    def last_step(self, num_steps: int) -> int:
        """The last step of a schedule of so many."""
        return num_steps if self.stop_after is None else min(self.stop_after, num_steps)

    def num_tokens(self, tokens_of_scales: Sequence[int]) -> int:
        """How many tokens of an image are computed, from those that each scale has."""
        return sum(tokens_of_scales[: self.last_step(len(tokens_of_scales))])

    def shorten(self, guidance: tuple[float, ...]) -> tuple[float, ...]:
        """The guidance of the steps that are left, 1 where there is none."""
        until = len(guidance) if self.guidance_until is None else self.guidance_until
        values = (value if step <= until else 1.0 for step, value in enumerate(guidance, start=1))
        return tuple(values)[: self.last_step(len(guidance))]

    def check(self, *, key_step: int, num_steps: int) -> None:
        """ValueError, beginning with the field, when one does not fit the steps or would do nothing."""
        bounds = {
            "stop_after": (key_step + 1, num_steps - 1),
            "guidance_until": (1, self.last_step(num_steps) - 1),
        }
        for name, (lowest, highest) in bounds.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise ValueError(f"{name}: must be a step from {lowest} to {highest}, not {value}")

    def __str__(self) -> str:
        parts = []
        if self.guidance_until is not None:
            parts.append(f"guidance until step {self.guidance_until}")
        if self.stop_after is not None:
            parts.append(f"stop after step {self.stop_after}")
        return ", ".join(parts) or "exact"


EXACT = Shortcuts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Qualities:
    """The shortcuts that a model takes at each quality; by default none at any."""

    medium: Shortcuts = EXACT
    low: Shortcuts = EXACT

    def shortcuts(self) -> dict[Quality, Shortcuts]:
        return {Quality.HIGH: EXACT, Quality.MEDIUM: self.medium, Quality.LOW: self.low}

    def name_of(self, shortcuts: Shortcuts) -> Quality:
        """The best quality that takes these shortcuts: HIGH for none, whatever was asked for."""
        return next(quality for quality, taken in self.shortcuts().items() if taken == shortcuts)


ALL_EXACT = Qualities()
