"""PictureReader: reads the uploaded pictures of a request, within the bounds of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Protocol, TypeVar

from service.application.upload_limiter import UploadLimiter
from service.errors import InvalidImage, PayloadTooLarge, UnsupportedMediaType
from service.media.images import num_decoded_pixels
from service.settings import Settings

# Bound of what a message repeats of a name that the client chose.
MAX_SHOWN_CHARS = 60
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """`name` is what the client calls it, for messages."""

    content: BinaryIO
    name: str = ""


class Read(Protocol[T_co]):
    """Such as `read_picture`: blocking work on the bytes of one file."""

    def __call__(self, upload: bytes, *, max_bytes: int, max_pixels: int) -> T_co: ...


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Files are decoded in a thread of `decoding`, one after another: that takes memory, and other requests
    need a thread, too.
    """

    uploads: UploadLimiter
    decoding: Executor
    settings: Settings

    def slot(self) -> AbstractContextManager[None]:
        """A place among those whose files are read. QueueFull when too many wait."""
        return self.uploads.slot()

    async def read(self, files: Sequence[UploadedFile], read: Read[T], param: str = "image") -> list[T]:
        """What `read` makes of each file; nothing is decoded unless all together are within the budget of
        pixels. PayloadTooLarge, UnsupportedMediaType or InvalidImage; of several files it names the one.
        """
        settings = self.settings
        max_bytes, max_pixels = settings.max_upload_bytes, settings.max_upload_pixels
        budget = settings.max_request_pixels
        count: Callable[[bytes], int] = partial(
            num_decoded_pixels, max_bytes=max_bytes, max_pixels=max_pixels
        )
        num_pixels = sum(await self._each(files, count, param))
        if num_pixels > budget:
            raise PayloadTooLarge(
                f"The pictures have {num_pixels / 1e6:.1f} million pixels together; at most {budget / 1e6:g} "
                "million are accepted in a request. Send smaller or fewer ones.",
                param=param,
            )
        return await self._each(files, partial(read, max_bytes=max_bytes, max_pixels=max_pixels), param)

    async def _each(self, files: Sequence[UploadedFile], read: Callable[[bytes], T], param: str) -> list[T]:
        def read_file(file: BinaryIO) -> T:  # here, not before: uploads that wait stay in their spool files
            file.seek(0)
            return read(file.read())

        loop, results = asyncio.get_running_loop(), list[T]()
        for number, file in enumerate(files):
            try:
                results.append(await loop.run_in_executor(self.decoding, read_file, file.content))
            except (InvalidImage, PayloadTooLarge, UnsupportedMediaType) as error:
                if len(files) == 1:
                    error.param = param
                    raise
                name = "".join(filter(str.isprintable, file.name))[:MAX_SHOWN_CHARS]
                which = f"File {number + 1} of {len(files)}" + (f", {name!r}" if name else "")
                raise type(error)(f"{which}: {error.message}", param=f"{param}.{number}") from error
        return results
