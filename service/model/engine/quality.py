"""Shortcuts: what an image may do without, each by name. All are off unless asked for; then nothing is lost.

Before its step a shortcut changes nothing, to the bit. A batch has one choice of shortcuts, and who shares it
changes no image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Quality(StrEnum):
    """What a client asks for; a model says what each but the first does without."""

    HIGH = "high"  # exact, for every model
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """None leaves a shortcut out. Steps count from 1.

    `guidance_until`: the last step with guidance. After it only the conditional half of each path is
    computed, which is what guidance 1 gives.

    `correction_until`: the last step at which generation paths attend as their content path does. After it
    the content path stops, unless its own image is asked for. A generation path then has queries and keys of
    its own for the tokens to come, over its content path's keys for those before, which are what it has been
    attending to all along.

    `stop_after`: the last step. The image is the feature after it, decoded at full size: a sum of fewer
    terms, and as valid an image.

    `pruning_from` and `pruning_share`: from this step on, this share of a step's tokens is skipped: those
    whose input is nearest to the mean over the grid, flat areas to which a finer scale adds least. The
    content path chooses, once a step, for its generation paths too, for these attend with its weights. A
    skipped token adds nothing to the feature. Its keys and values are absent from the cache rather than
    interpolated: attention is over a set whose members carry their own positions, so that a missing token
    only leaves a coarser grid there, while an invented one would take weight from those that were computed.
    """

    guidance_until: int | None = None
    correction_until: int | None = None
    stop_after: int | None = None
    pruning_from: int | None = None
    pruning_share: float | None = None

    def last_step(self, num_steps: int) -> int:
        """The last step of a schedule of so many."""
        return num_steps if self.stop_after is None else min(self.stop_after, num_steps)

    def num_kept(self, step: int, num_tokens: int) -> int:
        """How many of a step's tokens are computed: all, or at least one."""
        if self.pruning_from is None or self.pruning_share is None or step < self.pruning_from:
            return num_tokens
        return max(1, num_tokens - int(self.pruning_share * num_tokens))

    def num_tokens(self, of_scales: Sequence[int]) -> int:
        """How many tokens of an image are computed, from those that each scale has."""
        scales = of_scales[: self.last_step(len(of_scales))]
        return sum(self.num_kept(step, tokens) for step, tokens in enumerate(scales, start=1))

    def guided(self, guidance: tuple[float, ...]) -> tuple[float, ...]:
        """The guidance of every step that is left."""
        until = len(guidance) if self.guidance_until is None else self.guidance_until
        every = (each if step <= until else 1.0 for step, each in enumerate(guidance, start=1))
        return tuple(every)[: self.last_step(len(guidance))]

    def check(self, *, key_step: int, num_steps: int) -> None:
        """ValueError, beginning with the field, when one does not fit the steps or would do nothing."""
        last = self.last_step(num_steps)
        fits = {
            "stop_after": (key_step + 1, num_steps - 1),
            "guidance_until": (1, last - 1),
            "correction_until": (key_step, last - 1),
            "pruning_from": (key_step + 1, last),
        }
        for name, (lowest, highest) in fits.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise ValueError(f"{name}: must be a step from {lowest} to {highest}, not {value}")
        if self.pruning_share is not None and not 0 < self.pruning_share < 1:
            raise ValueError(f"pruning_share: must be between 0 and 1, not {self.pruning_share}")
        if (self.pruning_from is None) != (self.pruning_share is None):
            raise ValueError("pruning_share: goes with pruning_from; give both, or neither")

    def __str__(self) -> str:
        return ", ".join(self._named()) or "exact"

    def _named(self) -> Iterator[str]:
        if self.guidance_until is not None:
            yield f"guidance until step {self.guidance_until}"
        if self.correction_until is not None:
            yield f"correction until step {self.correction_until}"
        if self.pruning_from is not None:
            yield f"{self.pruning_share:.0%} of the tokens skipped from step {self.pruning_from}"
        if self.stop_after is not None:
            yield f"stop after step {self.stop_after}"


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
        return next(quality for quality, shortcut in self.shortcuts().items() if shortcut == shortcuts)


ALL_EXACT = Qualities()
