"""From the styles of a request to the styling of its images: one style, or several mixed."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import InvalidRequest
from service.http.dependencies import Parts
from service.http.schemas.images import GenerationRequest, StyleChoice, WeightedChoice
from service.model.engine.types import Styling, WeightedStyle
from service.model.schedule import Size

# Bound of a weight relative to the sum: beyond it, near-equal weights of both signs would leave only noise.
MAX_SHARE = 10


def require_stylable(body: GenerationRequest) -> None:
    """InvalidRequest when the fields about style contradict each other, or the weights cannot be used."""
    if body.styles is None:
        for name in ("strength", "alpha"):
            if getattr(body, name) is not None:
                raise InvalidRequest(
                    f'{name} goes with styles; for one style put it inside, as {{"id": ..., "{name}": ...}}.',
                    param=name,
                    code="conflicting_parameters",
                )
    elif body.style is not None or body.styles_each is not None:
        raise InvalidRequest(
            "Give one of style, for one, styles, for a mixture, and styles_each, for images in each.",
            param="styles",
            code="conflicting_parameters",
        )
    else:
        proportions(body.styles)


def proportions(styles: list[WeightedChoice]) -> list[float]:
    """The weights over their sum. What goes in place of the model's own principal part then adds up to one
    principal part, whatever the numbers: how much style there is remains with `strength`.
    """
    total = sum(style.weight for style in styles)
    shares = [style.weight / total for style in styles] if total > 0 else []
    if not shares or max(map(abs, shares)) > MAX_SHARE:
        raise InvalidRequest(
            f"The weights of styles are taken relative to their sum, which is {total:g}; it must be above 0, "
            f"and none may be more than {MAX_SHARE} times the sum. Raise the positive or lessen the negative "
            "ones.",
            param="styles",
        )
    return shares


async def styling_of(parts: Parts, body: GenerationRequest, size: Size, *, param: str) -> Styling | None:
    """The styling, its features looked up at once; None for a plain image. `param` is where `style` was."""
    if body.style is not None:
        feature = await parts.store.feature(body.style.id, size, param=param)
        return Styling((WeightedStyle(feature),), strength=body.style.strength, alpha=body.style.alpha)
    if body.styles is None:
        return None
    features = [
        await parts.store.feature(style.id, size, param=f"styles.{index}.id")
        for index, style in enumerate(body.styles)
    ]
    return Styling(
        tuple(map(WeightedStyle, features, proportions(body.styles))),
        strength=1.0 if body.strength is None else body.strength,
        alpha=body.alpha,
    )


@dataclass(frozen=True, slots=True)
class StyleAnswered:
    """The fields of an answer or event about style, with every value that was used."""

    style: StyleChoice | None = None
    styles: list[WeightedChoice] | None = None
    strength: float | None = None
    alpha: float | None = None


def style_answered(body: GenerationRequest, own_alpha: float) -> StyleAnswered:
    if body.style is not None:
        alpha = own_alpha if body.style.alpha is None else body.style.alpha
        return StyleAnswered(StyleChoice(id=body.style.id, strength=body.style.strength, alpha=alpha))
    if body.styles is None:
        return StyleAnswered()
    return StyleAnswered(
        styles=[
            WeightedChoice(id=style.id, weight=weight)
            for style, weight in zip(body.styles, proportions(body.styles), strict=True)
        ],
        strength=1.0 if body.strength is None else body.strength,
        alpha=own_alpha if body.alpha is None else body.alpha,
    )
