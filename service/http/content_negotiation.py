"""What a body is, by Content-Type, and which form of answer the client wants, by Accept."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import Headers

from service.errors import InvalidRequest, NotAcceptable, UnsupportedMediaType
from service.http.schemas.images import ImageBody
from service.media.images import OutputFormat

MULTIPART = "multipart/form-data"
JSON = "application/json"
RAW = {f"image/{output.value}": output for output in OutputFormat}
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Form:
    """The format of the image, and whether the answer is the image itself or JSON with the image in it."""

    format: OutputFormat
    is_raw: bool


def wanted_form(accept: str, body: ImageBody) -> Form:
    """What the header prefers; `*/*`, which most clients send, means JSON: an image type must be named.

    NotAcceptable when the header allows nothing that there is; InvalidRequest when it allows only a raw image
    and the body asks for something else.
    """
    ranges = _ranges(accept)
    of_json = max(_rank(ranges, name) for name in ((JSON, EVENT_STREAM) if body.stream else (JSON,)))
    own_format = OutputFormat(body.output_format or "png")
    formats = sorted(OutputFormat, key=lambda output: output is not own_format)
    wanted = max(formats, key=lambda output: _rank(ranges, f"image/{output}"))
    of_image = _rank(ranges, f"image/{wanted}")
    num_images = body.n * len(body.styles_each or [None])
    if of_json[0] and (body.stream or num_images > 1 or of_json >= of_image):
        return Form(own_format, is_raw=False)
    if not of_image[0]:
        raise NotAcceptable(
            f"Accept allows none of what there is: {JSON}, {', '.join(RAW)}; with stream, {EVENT_STREAM}.",
            param="Accept",
        )
    if body.stream:
        raise InvalidRequest(
            f"A stream is made of events, not of image/{wanted}: leave Accept out, or stream.", param="stream"
        )
    if num_images > 1:
        raise InvalidRequest(
            f"The answer to Accept: image/{wanted} is one image, not {num_images}: "
            f"n must be 1, with one style, or Accept {JSON}.",
            param="n",
        )
    if body.output_format not in (None, wanted.value):
        raise InvalidRequest(
            f"Accept asks for image/{wanted} and output_format for {body.output_format}: leave one of them "
            "out.",
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


def _ranges(accept: str) -> dict[str, tuple[float, int]]:
    """Weight and rank by position of each media range of the header; both grow with preference."""
    found: dict[str, tuple[float, int]] = {}
    for position, part in enumerate(accept.lower().split(",")):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((_weight(parameter[2:]) for parameter in parameters if parameter.startswith("q=")), 1.0)
        if name:
            found.setdefault(name, (weight, -position))
    return found or {"*/*": (1.0, 0)}


def _rank(ranges: dict[str, tuple[float, int]], name: str) -> tuple[float, int]:
    """Of a media type: that of the most specific range that includes it. Weight 0: not acceptable."""
    kind = name.partition("/")[0]
    matching = (ranges[given] for given in (name, f"{kind}/*", "*/*") if given in ranges)
    return next(matching, (0.0, 0))


def _weight(text: str) -> float:
    whole, _, fraction = text.partition(".")
    return float(text) if whole in ("0", "1") and (fraction.isdecimal() or not fraction) else 0.0
