"""PictureInput: a picture in a body, as base64 in JSON, or as a file in a form."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from io import BytesIO
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf, PlainSerializer
from pydantic_core import PydanticCustomError

from service.application.uploads import UploadedFile


def _uploaded(value: Any) -> Any:
    """OpenAI's form in JSON, {"image_url": "data:..."}, too."""
    if isinstance(value, UploadedFile):
        return value
    if isinstance(value, dict) and list(value) == ["image_url"]:
        value = value["image_url"]
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise _refused("Pictures are not fetched from addresses: send the file in base64, or as a data: URL.")
    if not isinstance(value, str):
        raise _refused(
            "A picture must be its file in base64, a data: URL, or an object with a data: URL in image_url."
        )
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return UploadedFile(BytesIO(b64decode(encoded, validate=True)))
    except (NotBase64, ValueError):
        raise _refused("A picture must be its file in base64, and this is not base64.") from None


def _refused(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{sentence}", {"sentence": sentence})


def _as_base64(file: UploadedFile) -> str:
    """What reads as the same picture, for a body that is kept."""
    file.content.seek(0)
    return b64encode(file.content.read()).decode()


PictureInput = Annotated[
    InstanceOf[UploadedFile],
    BeforeValidator(_uploaded, json_schema_input_type=str | dict[str, str]),
    PlainSerializer(_as_base64, return_type=str, when_used="json"),
]
