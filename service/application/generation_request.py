"""GenerationRequest: the images to draw, and what of it the model and the settings allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.application.uploads import UploadedFile
from service.batching.priority import Priority
from service.errors import InvalidRequest
from service.media.images import OutputFormat, check_compression
from service.model.engine.quality import Quality
from service.model.engine.types import Box

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
    box: Box | None = None  # from which part of its picture
    area: UploadedFile | Box | None = None  # where in the image: a mask, or a box


@dataclass(frozen=True, slots=True)
class StyleMix:
    """One style, or several mixed by weight, relative to the sum of the weights; or a style for each of
    several areas, whose weight is the strength there.

    `strength`: 0 is the plain model, 1 the paper. `alpha`: None is the model's own.
    """

    terms: tuple[StyleTerm, ...]
    strength: float = 1.0
    alpha: float | None = None

    def resolved(self, model_alpha: float) -> StyleMix:
        """With the model's alpha where none is given, and weights that add up to 1: how much style there is
        then depends on `strength` alone. InvalidRequest for weights that cannot be brought to that sum.
        """
        alpha = model_alpha if self.alpha is None else self.alpha
        if self.has_areas:
            return replace(self, alpha=alpha)
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
        return StyleMix(terms, self.strength, alpha)

    @property
    def has_areas(self) -> bool:
        return any(term.area is not None for term in self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """The uploaded picture that images are made of; where transparent pixels of `mask` are, it is edited.

    `structure` is how much of it stays, 0 to 1; where none is given, `is_faithful` asks for half of what is
    missing from 1. `style_pictures` are a style of their own.
    """

    picture: UploadedFile
    mask: UploadedFile | None = None
    structure: float | None = None
    is_faithful: bool = False
    style_pictures: tuple[UploadedFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """`num_images` images of one prompt in each of `styles`, of which None is the plain model.

    Without `styles` the model's name may carry one, and the API key may have one. Image i of a style is drawn
    with seed + i; a seed is chosen when there is none. `num_previews` is a number for each image, and for
    streams only. `deadline` is a time of `time.monotonic`.
    """

    prompt: str | None  # None: without text, for pictures alone
    negative_prompt: str = ""
    edit: EditRequest | None = None
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
    for name, text in (("prompt", request.prompt or ""), ("negative_prompt", request.negative_prompt)):
        if len(text) > max_prompt_chars:
            raise InvalidRequest(
                f"{name} has {len(text)} characters; it may have {max_prompt_chars}.", param=name
            )
    if request.prompt is not None and not request.prompt.strip():
        raise InvalidRequest("prompt is blank; say what to draw.", param="prompt")
    if request.prompt is None:
        _check_without_prompt(request, styles)
    total_images = request.num_images * len(styles)
    if total_images > MAX_IMAGES:
        raise InvalidRequest(
            f"{request.num_images} images in each of {len(styles)} styles are {total_images}; one "
            f"request draws at most {MAX_IMAGES}.",
            param="n",
        )
    check_compression(request.output_format, request.output_compression)


def _check_without_prompt(request: GenerationRequest, styles: Sequence[StyleMix | None]) -> None:
    has_style = any(styles) or (request.edit is not None and request.edit.style_pictures)
    if not has_style and (request.edit is None or request.edit.mask is None):
        raise InvalidRequest(
            "Without a prompt and without a style there is nothing to change: give one of them.",
            param="prompt",
            code="missing_required_parameter",
        )
    for name, is_given in (
        ("negative_prompt", bool(request.negative_prompt)),
        ("guidance", request.guidance is not None),
    ):
        if is_given:
            raise InvalidRequest(
                f"{name} goes with a prompt, and there is none: give one, or leave {name} out.",
                param=name,
                code="conflicting_parameters",
            )


def with_suffixes(prompt: str, style: StyleMix, suffixes: Sequence[str | None]) -> str:
    """The prompt with what the styles of the mix add to it, each once, in their order: nothing at strength 0,
    which is the plain model, nothing of a style that the image is led away from, and nothing of styles of
    areas: a prompt is of the whole image.
    """
    if style.has_areas:
        return prompt
    added = [
        suffix
        for term, suffix in zip(style.terms, suffixes, strict=True)
        if suffix and term.weight > 0 and style.strength > 0
    ]
    return ", ".join([prompt, *dict.fromkeys(added)])


def styles_of(
    request: GenerationRequest, of_model: StyleMix | None, of_key: StyleMix | None
) -> tuple[StyleMix | None, ...]:
    """The styles to draw in: the request's own, that of its model's name, or that of its API key; None, too,
    for that of uploaded pictures, which are still to be read. InvalidRequest when the request names styles in
    two places.
    """
    has_pictures = request.edit is not None and bool(request.edit.style_pictures)
    if request.styles is None and not has_pictures:
        return (of_model or of_key,)
    if of_model is not None:
        raise InvalidRequest(
            "The model's name carries a style, and the request names another: give the style in one place.",
            param="model",
            code="conflicting_parameters",
        )
    if request.styles is None:
        return (None,)
    if has_pictures:
        raise InvalidRequest(
            "Several images are a picture and its style, and the request names another style: send one image "
            "or no other style.",
            param="image",
            code="conflicting_parameters",
        )
    return request.styles
