"""Reading: what one model found in a style; kept in the style's record, as JSON that people can read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from service.model.style.feature import dominance

if TYPE_CHECKING:
    from service.model.style.feature import StyleFeature
    from service.styles.style_code import StyleCodes


@dataclass(frozen=True, slots=True)
class Reading:
    """Of the feature at the model's default size."""

    code: str
    singular_values: tuple[float, ...]  # descending
    dominance: float  # of the first component, 0 to 1
    agreement: float | None  # between the pictures, -1 to 1; None where there is one

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Reading:
        """The inverse of `to_json`; ValueError when it is damaged."""
        try:
            fields = json.loads(text)
            alike = fields["agreement"]
            return cls(
                code=str(fields["code"]),
                singular_values=tuple(float(value) for value in fields["singular_values"]),
                dominance=float(fields["dominance"]),
                agreement=None if alike is None else float(alike),
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"the record's reading is damaged: {error!r}") from error


def reading_of(feature: StyleFeature, codes: StyleCodes, alike: float | None) -> Reading:
    """Numbers to six digits: what a float32 holds."""
    return Reading(
        code=codes.write(feature.tokens),
        singular_values=tuple(_short(value) for value in feature.singular_values),
        dominance=_short(dominance(feature)),
        agreement=None if alike is None else _short(alike),
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")
