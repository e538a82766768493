"""What a body is, by Content-Type, and which form of answer the client wants, by Accept."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

from fastapi import Request
from starlette.datastructures import Headers

from service.errors import InvalidRequest, UnsupportedMediaType
from service.http.schemas.images import GenerationBody
from service.media.images import OutputFormat

MULTIPART = "multipart/form-data"
JSON = "application/json"
RAW = {f"image/{output.value}": output for output in OutputFormat}
ACCEPTS_JSON = ("application/json", "application/*", "*/*")


@dataclass(frozen=True, slots=True)
class Form:
    """The format of the image, and whether the answer is the image itself or JSON with the image in it."""

    format: OutputFormat
    is_raw: bool


def wanted_form(accept: str, body: GenerationBody) -> Form:
    """What the header prefers; `*/*`, which most clients send, means JSON: an image type must be named.

    InvalidRequest when the header allows only a raw image and the body asks for something else.
    """
    ranked = [name for name in _ranked(accept) if name in RAW or name in ACCEPTS_JSON]
    num_images = body.n * len(body.styles_each or [None])
    if (body.stream or num_images > 1) and any(name in ACCEPTS_JSON for name in ranked):
        ranked = [name for name in ranked if name in ACCEPTS_JSON]
    if not ranked or ranked[0] in ACCEPTS_JSON:
        return Form(OutputFormat(body.output_format or "png"), is_raw=False)
    if body.stream:
        raise InvalidRequest(
            f"A stream is made of events, not of {ranked[0]}: leave Accept out, or stream.", param="stream"
        )
    wanted = RAW[ranked[0]]
    if num_images > 1:
        raise InvalidRequest(
            f"The answer to Accept: {ranked[0]} is one image, not {num_images}: "
            "n must be 1, with one style, or Accept application/json.",
            param="n",
        )
    if body.output_format not in (None, wanted.value):
        raise InvalidRequest(
            f"Accept asks for {ranked[0]} and output_format for {body.output_format}: leave one of them out.",
            param="output_format",
        )
    return Form(wanted, is_raw=True)


def media_type(headers: Headers) -> str:
    """The Content-Type without its parameters, in lower case; "" when there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_only(request: Request) -> None:
    """Dependency: UnsupportedMediaType unless the body says it is JSON."""
    given = media_type(request.headers)
    if given != JSON:
        raise UnsupportedMediaType(f"The Content-Type must be {JSON}, {given_instead(given)}.")


def given_instead(given: str) -> str:
    """The end of a sentence about a wrong media type."""
    return f"not {given[:60]}" if given else "and the request has none"


def _ranked(accept: str) -> list[str]:
    """Media types by preference; equals in their order of appearance; refused ones (q=0) left out."""
    weighted: list[tuple[float, str]] = []
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((_weight(parameter[2:]) for parameter in parameters if parameter.startswith("q=")), 1.0)
        if name and weight > 0:
            weighted.append((weight, name))
    return [name for _, name in sorted(weighted, key=itemgetter(0), reverse=True)]


def _weight(text: str) -> float:
    whole, _, fraction = text.partition(".")
    return float(text) if whole in ("0", "1") and (fraction.isdecimal() or not fraction) else 0.0
