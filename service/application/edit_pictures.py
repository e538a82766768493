"""Edited pictures: from the uploads of a request to what the engine, and the files of the images, need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.application.generation_request import EditRequest, GenerationRequest, StyleMix, StyleTerm
from service.application.output_size import OutputSize, size_of_picture
from service.application.uploads import PictureReader, UploadedFile
from service.errors import InvalidRequest
from service.media.composite import Composite
from service.media.images import Pixels, read_picture, read_pixels
from service.model.device.transfer import cut_to
from service.model.engine.generator import Generator
from service.model.engine.types import Area, Box, ContentPicture, Edit
from service.model.schedule import Size
from service.stage_timer import RequestTrace
from service.styles.store import StyleStore

# Where a request names no structure. A prompt over a picture needs room, and inside a mask the picture would
# only be in its way: nothing of it is kept there.
STYLED_STRUCTURE, PROMPTED_STRUCTURE, MASKED_STRUCTURE = 0.75, 0.5, 0.0
OPAQUE_FROM = 128  # of alpha: OpenAI's masks are edited where they are transparent


@dataclass(frozen=True, slots=True)
class EditedPicture:
    """A decoded picture and its mask."""

    pixels: Pixels
    mask: Image.Image | None  # alpha
    structure: float | None
    is_faithful: bool

    def area(self, size: Size) -> Area | None:
        """The mask in images of this size: one object for all images of a request."""
        return None if self.mask is None else Area(_edited(self.mask, size))

    def edit(self, mask: Area | None, *, has_style: bool) -> Edit:
        structure = self.structure
        if structure is None:
            structure = (
                STYLED_STRUCTURE if has_style else PROMPTED_STRUCTURE if mask is None else MASKED_STRUCTURE
            )
            structure = (1 + structure) / 2 if self.is_faithful else structure
        return Edit(ContentPicture(self.pixels.digest, np.asarray(self.pixels.image)), structure, mask)

    def composite(self, mask: Area, size: Size, feather: int) -> Composite:
        return Composite.of(np.asarray(cut_to(self.pixels.image, size)), mask.pixels, feather)


@dataclass(frozen=True, slots=True)
class RequestPictures:
    """What the uploads of a request decide: its styles and their areas, its size, what it edits."""

    styles: Sequence[StyleMix | None]
    output: OutputSize
    areas: Sequence[Sequence[Area | None]]  # of each style of each mix
    edited: EditedPicture | None = None
    mask: Area | None = None  # of `edited`, at the size that is drawn

    def edit(self, style: StyleMix | None) -> Edit | None:
        return None if self.edited is None else self.edited.edit(self.mask, has_style=style is not None)

    def composite(self, feather: int) -> Composite | None:
        """What keeps the picture's own pixels outside the mask; None where there is no mask."""
        if self.edited is None or self.mask is None:
            return None
        return self.edited.composite(self.mask, self.output.drawn, feather)


async def read_request_pictures(
    request: GenerationRequest,
    styles: Sequence[StyleMix | None],
    output: OutputSize,
    generator: Generator,
    reader: PictureReader,
    store: StyleStore,
    trace: RequestTrace,
) -> RequestPictures:
    """What the uploads of a request hold: a picture to edit, its mask, areas of styles, and a style.

    Raises as `PictureReader.read`, QueueFull, and InvalidRequest for a mask that is none of the picture's.
    """
    edit = request.edit
    if not _has_pictures(request, styles):
        return RequestPictures(styles, output, [()] * len(styles))
    with reader.slot(), trace.stage("picture"):
        edited = None if edit is None else await read_edit(edit, reader)
        if edited is not None and request.size == "auto":
            output = size_of_picture(edited.pixels.width, edited.pixels.height, generator)
        if edit is not None and edit.style_pictures:
            # The style of uploaded pictures, by its code: it is not kept.
            code = await store.code_of(await reader.read(edit.style_pictures, read_picture))
            styles = [StyleMix((StyleTerm(code, param="image"),), alpha=generator.alpha)]
        picture = None if edited is None else edited.pixels
        areas = [
            () if style is None else await read_areas(style, output.drawn, reader, picture)
            for style in styles
        ]
    mask = None if edited is None else edited.area(output.drawn)
    return RequestPictures(styles, output, areas, edited, mask)


async def check_request_pictures(
    request: GenerationRequest,
    styles: Sequence[StyleMix | None],
    size: Size,
    reader: PictureReader,
    trace: RequestTrace,
) -> None:
    """Raises what `read_request_pictures` would for uploads that cannot be used; keeps nothing of them."""
    edit, picture = request.edit, None
    if not _has_pictures(request, styles):
        return
    with reader.slot(), trace.stage("picture"):
        if edit is not None:
            picture = (await read_edit(edit, reader)).pixels
            await reader.read(edit.style_pictures, read_picture)
        for style in filter(None, styles):
            await read_areas(style, size, reader, picture)


def _has_pictures(request: GenerationRequest, styles: Sequence[StyleMix | None]) -> bool:
    return request.edit is not None or any(style and style.has_areas for style in styles)


async def read_edit(request: EditRequest, reader: PictureReader) -> EditedPicture:
    """Decode the picture and its mask. InvalidRequest for a mask that is none of this picture's."""
    (pixels,) = await reader.read([request.picture], read_pixels)
    mask = None
    if request.mask is not None:
        mask = await _read_mask(request.mask, reader, "mask", pixels)
    return EditedPicture(pixels, mask, request.structure, request.is_faithful)


async def read_areas(
    style: StyleMix, size: Size, reader: PictureReader, picture: Pixels | None
) -> tuple[Area | None, ...]:
    """Of each style of a mix, where in images of this size it goes. A mask has the size of the picture that
    is edited; where there is none it is cut as a picture would be.
    """
    areas: list[Area | None] = []
    for index, term in enumerate(style.terms):
        if isinstance(term.area, UploadedFile):
            mask = await _read_mask(term.area, reader, f"regions.{index}.mask", picture)
            areas.append(Area(_edited(mask, size)))
        else:
            areas.append(None if term.area is None else Area(pixels_in(term.area, size)))
    return tuple(areas)


def pixels_in(box: Box, size: Size) -> NDArray[np.bool_]:
    """[height, width]: which pixels are in a box, at least one in each direction."""
    x, y = (np.arange(side) + 0.5 for side in (size.width, size.height))
    columns = _between(x, box.left * size.width, box.right * size.width)
    rows = _between(y, box.top * size.height, box.bottom * size.height)
    return rows[:, None] & columns[None]


def _between(centres: NDArray[np.floating], start: float, end: float) -> NDArray[np.bool_]:
    inside = (centres >= start) & (centres < end)
    inside[min(len(centres) - 1, int(start))] |= not inside.any()
    return inside


async def _read_mask(
    file: UploadedFile, reader: PictureReader, param: str, picture: Pixels | None
) -> Image.Image:
    (pixels,) = await reader.read([file], read_pixels, param)
    if pixels.alpha is None:
        raise InvalidRequest(
            f"{param} has no alpha channel, whose transparent part says where to edit. Send a PNG that is "
            "transparent there and opaque everywhere else.",
            param=param,
        )
    if picture is not None and (pixels.width, pixels.height) != (picture.width, picture.height):
        raise InvalidRequest(
            f"{param} is {pixels.width}x{pixels.height} and the picture {picture.width}x{picture.height}: "
            "give both the same size.",
            param=param,
        )
    if not _is_transparent(pixels.alpha).any():
        raise InvalidRequest(
            f"{param} is opaque everywhere, so there is nothing to edit: make it transparent where the image "
            "may change.",
            param=param,
        )
    return pixels.alpha


def _edited(mask: Image.Image, size: Size) -> NDArray[np.bool_]:
    return _is_transparent(cut_to(mask, size))


def _is_transparent(alpha: Image.Image) -> NDArray[np.bool_]:
    return np.asarray(alpha) < OPAQUE_FROM
