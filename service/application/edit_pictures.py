"""Edited pictures: from the uploads of a request to what the engine, and the files of the images, need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.application.generation_request import EditRequest, StyleMix
from service.application.uploads import PictureReader, UploadedFile
from service.errors import InvalidRequest
from service.media.composite import Composite
from service.media.images import Pixels, read_pixels
from service.model.device.transfer import cut_to
from service.model.engine.types import Area, Box, ContentPicture, Edit
from service.model.schedule import Size

# Where a request names no structure. Inside a mask without a style the picture would only be in the way of
# what the prompt says: nothing of it is kept there.
DEFAULT_STRUCTURE, MASKED_STRUCTURE = 0.5, 0.0
OPAQUE_FROM = 128  # of alpha: OpenAI's masks are edited where they are transparent


@dataclass(frozen=True, slots=True)
class EditedPicture:
    """A decoded picture and its mask."""

    pixels: Pixels
    mask: Image.Image | None  # alpha
    structure: float | None

    def area(self, size: Size) -> Area | None:
        """The mask in images of this size: one object for all images of a request."""
        return None if self.mask is None else Area(_edited(self.mask, size))

    def edit(self, mask: Area | None, *, has_style: bool) -> Edit:
        structure = self.structure
        if structure is None:
            structure = DEFAULT_STRUCTURE if has_style or mask is None else MASKED_STRUCTURE
        return Edit(ContentPicture(self.pixels.digest, np.asarray(self.pixels.image)), structure, mask)

    def composite(self, mask: Area, size: Size, feather: int) -> Composite:
        return Composite.of(np.asarray(cut_to(self.pixels.image, size)), mask.pixels, feather)


async def read_edit(request: EditRequest, reader: PictureReader) -> EditedPicture:
    """Decode the picture and its mask. InvalidRequest for a mask that is none of this picture's."""
    (pixels,) = await reader.read([request.picture], read_pixels)
    mask = None
    if request.mask is not None:
        mask = await _read_mask(request.mask, reader, "mask", pixels)
    return EditedPicture(pixels, mask, request.structure)


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
