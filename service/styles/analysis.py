"""StyleAnalysis: what one model found in a style; stored in the style's record as readable JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from service.model.style.feature import agreement, dominance

if TYPE_CHECKING:
    from service.model.style.feature import StyleFeature
    from service.styles.style_code import StyleCodec


@dataclass(frozen=True, slots=True)
class StyleAnalysis:
    """Of the feature at the model's default size."""

    code: str
    singular_values: tuple[float, ...]  # descending
    dominance: float  # of the first component, 0 to 1
    agreement: float | None  # between the pictures, -1 to 1; None where there is one

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StyleAnalysis:
        """The inverse of `to_json`; ValueError when it is damaged."""
        try:
            fields = json.loads(text)
            found = fields["agreement"]
            return cls(
                code=str(fields["code"]),
                singular_values=tuple(float(value) for value in fields["singular_values"]),
                dominance=float(fields["dominance"]),
                agreement=None if found is None else float(found),
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"the record's analysis is damaged: {error!r}") from error


def analyse_style(feature: StyleFeature, codec: StyleCodec) -> StyleAnalysis:
    """Numbers to six digits: what a float32 holds."""
    its_agreement = agreement(feature)
    return StyleAnalysis(
        code=codec.write(feature.counts),
        singular_values=tuple(_rounded(value) for value in feature.singular_values),
        dominance=_rounded(dominance(feature)),
        agreement=None if its_agreement is None else _rounded(its_agreement),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
