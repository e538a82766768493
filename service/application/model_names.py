"""ModelNames: the names under which the model is asked for, and the styles that a name can carry.

    nano                        the model
    gpt-image-1                 an alias of it
    nano@sty_...:0.7            the model with a style at strength 0.7
    @sty_...:2+sty_...          the model with a mixture; each number is a weight

Many clients let their users choose a model and nothing else: a name is the one place where a style fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from service.access.api_key import MAX_STRENGTH
from service.application.generation_request import MAX_MIXED_STYLES, MAX_WEIGHT, StyleMix, StyleTerm
from service.errors import InvalidRequest, ModelNotFound

ANY_NAME = "*"
_NUMBER = re.compile(r"-?\d{1,4}(\.\d{1,8})?")
_MAX_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The served model's name and its aliases; `ANY_NAME` among them stands for all other names."""

    served: str
    aliases: Mapping[str, str]  # the model that each stands for

    def check(self) -> None:
        """ValueError when an alias stands for another model than the one served."""
        for alias, model in self.aliases.items():
            if model != self.served:
                raise ValueError(
                    f"ATELIER_MODEL_ALIASES says that {alias} stands for {model}, which is not served: this "
                    f"service draws with {self.served}. Write {alias}={self.served}, or leave it out."
                )

    def style_of(self, name: str | None) -> StyleMix | None:
        """The style that a name carries. ModelNotFound for a name of another model; InvalidRequest for a
        style that is not written as above.
        """
        model, at, styles = (name or "").partition("@")
        if model not in ("", self.served) and not {model, ANY_NAME} & self.aliases.keys():
            known = ", ".join([self.served, *(alias for alias in self.aliases if alias != ANY_NAME)])
            raise ModelNotFound(
                f"This service draws with {self.served} and has no model {model[:_MAX_SHOWN_CHARS]}. Name "
                f"one of {known}, or none.",
                param="model",
            )
        return _read_styles(styles) if at else None


def _read_styles(text: str) -> StyleMix:
    terms = text.split("+")
    if len(terms) > MAX_MIXED_STYLES:
        raise _malformed(f"names {len(terms)} styles; a mixture has at most {MAX_MIXED_STYLES}")
    if len(terms) == 1:
        style, strength = _read_term(text, "strength", lowest=0, highest=MAX_STRENGTH)
        return StyleMix((StyleTerm(style, param="model"),), 1.0 if strength is None else strength)
    weighted = [_read_term(term, "weight", lowest=-MAX_WEIGHT, highest=MAX_WEIGHT) for term in terms]
    return StyleMix(
        tuple(StyleTerm(style, 1.0 if weight is None else weight, "model") for style, weight in weighted)
    )


def _read_term(text: str, what: str, *, lowest: float, highest: float) -> tuple[str, float | None]:
    """A style ID or style code, and the number after it, if any."""
    style, colon, number = text.partition(":")
    if not style:
        raise _malformed("has no style after @")
    if not colon:
        return style, None
    if not _NUMBER.fullmatch(number) or not lowest <= float(number) <= highest:
        raise _malformed(
            f"has {number[:_MAX_SHOWN_CHARS]!r} as a {what}; it goes from {lowest:g} to {highest:g}"
        )
    return style, float(number)


def _malformed(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The model's name {what}. Write MODEL@STYLE, MODEL@STYLE:STRENGTH, or a mixture as "
        "MODEL@STYLE:WEIGHT+STYLE:WEIGHT.",
        param="model",
    )
