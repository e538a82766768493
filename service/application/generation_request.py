"""GenerationRequest: the images to draw, and what of it the model and the settings allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.batching.priority import Priority
from service.errors import InvalidRequest
from service.media.images import OutputFormat, check_compression
from service.model.engine.quality import Quality

MAX_SEED = 2**32 - 1
MAX_IMAGES = 10
MAX_MIXED_STYLES = 10
MAX_WEIGHT = 10
# Bound of a weight relative to the sum: beyond it, near-equal weights of both signs would leave only noise.
MAX_SHARE = 10


@dataclass(frozen=True, slots=True)
class StyleTerm:
    """One style of a mixture, by its style ID or style code; `param` names it in errors."""

    id: str
    weight: float = 1.0
    param: str = "style"


@dataclass(frozen=True, slots=True)
class StyleMix:
    """One style, or several mixed by weight, relative to the sum of the weights.

    `strength`: 0 is the plain model, 1 the paper. `alpha`: None is the model's own.
    """

    terms: tuple[StyleTerm, ...]
    strength: float = 1.0
    alpha: float | None = None

    def resolved(self, model_alpha: float) -> StyleMix:
        """With the model's alpha where none is given, and weights that add up to 1: how much style there is
        then depends on `strength` alone. InvalidRequest for weights that cannot be brought to that sum.
        """
        total = sum(term.weight for term in self.terms)
        shares = [term.weight / total for term in self.terms] if total > 0 else []
        if not shares or max(map(abs, shares)) > MAX_SHARE:
            raise InvalidRequest(
                f"The weights of styles are taken relative to their sum, which is {total:g}; it must be "
                f"above 0, and none may be more than {MAX_SHARE} times the sum. Raise the positive or lower "
                "the negative ones.",
                param=self.terms[0].param.partition(".")[0],
            )
        terms = tuple(replace(term, weight=share) for term, share in zip(self.terms, shares, strict=True))
        return StyleMix(terms, self.strength, model_alpha if self.alpha is None else self.alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """`num_images` images of one prompt in each of `styles`, of which None is the plain model.

    Without `styles` the model's name may carry one, and the API key may have one. Image i of a style is drawn
    with seed + i; a seed is chosen when there is none. `num_previews` is a number for each image, and for
    streams only. `deadline` is a time of `time.monotonic`.
    """

    prompt: str
    negative_prompt: str = ""
    model: str | None = None  # as in ModelNames
    size: str = "auto"  # WIDTHxHEIGHT, or auto
    styles: tuple[StyleMix | None, ...] | None = None
    num_images: int = 1
    num_previews: int = 0
    seed: int | None = None  # 0 .. MAX_SEED
    guidance: float | None = None
    quality: Quality = Quality.HIGH
    output_format: OutputFormat = OutputFormat.PNG
    output_compression: int | None = None
    priority: Priority = Priority.NORMAL
    deadline: float | None = None


def check_request(
    request: GenerationRequest, styles: Sequence[StyleMix | None], max_prompt_chars: int
) -> None:
    """InvalidRequest for a prompt that is blank or too long, too many images, and a compression that the
    format does not have. `styles` are those to draw in.
    """
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        if len(text) > max_prompt_chars:
            raise InvalidRequest(
                f"{name} has {len(text)} characters; it may have {max_prompt_chars}.", param=name
            )
    if not request.prompt.strip():
        raise InvalidRequest("prompt is blank; say what to draw.", param="prompt")
    total_images = request.num_images * len(styles)
    if total_images > MAX_IMAGES:
        raise InvalidRequest(
            f"{request.num_images} images in each of {len(styles)} styles are {total_images}; one "
            f"request draws at most {MAX_IMAGES}.",
            param="n",
        )
    check_compression(request.output_format, request.output_compression)


def with_suffixes(prompt: str, style: StyleMix, suffixes: Sequence[str | None]) -> str:
    """The prompt with what the styles of the mix add to it, each once, in their order: nothing at strength 0,
    which is the plain model, and nothing of a style that the image is led away from.
    """
    added = [
        suffix
        for term, suffix in zip(style.terms, suffixes, strict=True)
        if suffix and term.weight > 0 and style.strength > 0
    ]
    return ", ".join([prompt, *dict.fromkeys(added)])


def styles_of(
    request: GenerationRequest, of_model: StyleMix | None, of_key: StyleMix | None
) -> tuple[StyleMix | None, ...]:
    """The styles to draw in: the request's own, that of its model's name, or that of its API key.
    InvalidRequest when the request names styles in both places.
    """
    if request.styles is None:
        return (of_model or of_key,)
    if of_model is not None:
        raise InvalidRequest(
            "The model's name carries a style, and the request names another: give the style in one place.",
            param="model",
            code="conflicting_parameters",
        )
    return request.styles
