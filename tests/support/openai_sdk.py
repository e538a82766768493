"""The openai package as a client of a test server."""

from __future__ import annotations

import base64
from typing import Any

import openai
from openai.types import ImagesResponse

from tests.support.server import Running


def sdk_of(server: Running, **options: Any) -> openai.OpenAI:
    options = {"max_retries": 0} | options
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", **options)


def files_of(answer: ImagesResponse) -> list[bytes]:
    assert answer.data is not None
    return [base64.b64decode(image.b64_json or "") for image in answer.data]
