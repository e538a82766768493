"""From a request to what the model draws; what only the model and the settings can refuse is refused here."""

from __future__ import annotations

import secrets

from service.errors import InvalidRequest
from service.http.dependencies import Parts
from service.http.models import require_model
from service.http.schemas.images import MAX_IMAGES, MAX_SEED, GenerationRequest
from service.media.images import OutputFormat, check_compression
from service.model.engine.generator import Generator
from service.model.engine.quality import Quality, Shortcuts
from service.model.engine.types import ImageSpec, Styling
from service.model.schedule import Size


def require_drawable(body: GenerationRequest, output: OutputFormat, parts: Parts) -> None:
    """A ServiceError when the request names another model, a size that is not native, or too long a prompt.

    Also when the image could be drawn and then not encoded as asked.
    """
    require_model(parts, body.model)
    native_size(body, parts.generator)
    for name in ("prompt", "negative_prompt"):
        num_chars, bound = len(getattr(body, name)), parts.settings.max_prompt_chars
        if num_chars > bound:
            raise InvalidRequest(f"{name} has {num_chars} characters; it may have {bound}.", param=name)
    if not body.prompt.strip():
        raise InvalidRequest("prompt is blank; say what to draw.", param="prompt")
    if body.styles_each is not None and body.style is not None:
        raise InvalidRequest(
            "style and styles_each exclude each other: move the style into styles_each.",
            param="styles_each",
            code="conflicting_parameters",
        )
    if body.num_images > MAX_IMAGES:
        raise InvalidRequest(
            f"{body.n} images in each of {body.num_images // body.n} styles are {body.num_images}; "
            f"one request draws at most {MAX_IMAGES}.",
            param="n",
        )
    if body.partial_images and not body.stream:
        raise InvalidRequest(
            "partial_images come while an image is streamed: set stream to true, or leave them out.",
            param="partial_images",
        )
    check_compression(output, body.output_compression)


def native_size(body: GenerationRequest, generator: Generator) -> Size:
    """The size asked for; InvalidRequest with the list of those that are enabled when it is none of them."""
    if body.size == "auto":
        return generator.default_size
    for size in generator.sizes:
        if str(size) == body.size:
            return size
    enabled = ", ".join(map(str, generator.sizes))
    draws = f"it draws {enabled} (auto is {generator.default_size})."
    raise InvalidRequest(
        f"{body.size} is not enabled on this service; {draws} ATELIER_SIZES enables more."
        if body.size in map(str, generator.native_sizes)
        else f"{generator.name} has no size {body.size}; {draws}",
        param="size",
        code="unsupported_size",
    )


def each_style(body: GenerationRequest) -> list[GenerationRequest]:
    """The request once for each of its styles, all with the same first seed."""
    if body.styles_each is None:
        return [body]
    seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed
    return [
        body.model_copy(update={"style": style, "styles_each": None, "seed": seed})
        for style in body.styles_each
    ]


def image_specs(body: GenerationRequest, styling: Styling | None, generator: Generator) -> list[ImageSpec]:
    """One for each image: image i is drawn with seed + i, so a set is found again by its first seed."""
    first_seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed
    return [
        ImageSpec(
            prompt=body.prompt,
            seed=(first_seed + index) % (MAX_SEED + 1),
            size=native_size(body, generator),
            negative_prompt=body.negative_prompt,
            guidance=body.guidance,
            styling=styling,
            shortcuts=shortcuts_of(body, generator),
        )
        for index in range(body.n)
    ]


def shortcuts_of(body: GenerationRequest, generator: Generator) -> Shortcuts:
    quality = Quality.HIGH if body.quality == "auto" else Quality(body.quality)
    return generator.qualities.shortcuts()[quality]
