"""POST /v1/images/generations, and what is in its responses: JSON, events, errors, Server-Timing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

GENERATIONS = "/v1/images/generations"
PARTIAL, COMPLETED = "image_generation.partial_image", "image_generation.completed"


def generate(client: httpx.Client, accept: str = "*/*", **fields: object) -> httpx.Response:
    body = {"prompt": "a star"} | fields
    return client.post(GENERATIONS, json=body, headers={"Accept": accept})


def draw(client: httpx.Client, **fields: object) -> httpx.Response:
    """With a seed, so that the same fields give the same image."""
    return generate(client, **{"seed": 1} | fields)  # type: ignore[arg-type]


def images_of(response: httpx.Response) -> list[bytes]:
    """The image files of a JSON response."""
    assert response.status_code == 200, response.text
    return [base64.b64decode(image["b64_json"]) for image in response.json()["data"]]


@contextmanager
def streamed(client: httpx.Client, **fields: object) -> Iterator[httpx.Response]:
    """The response of a stream, before its first event is read."""
    body = {"prompt": "a star", "stream": True} | fields
    with client.stream("POST", GENERATIONS, json=body) as response:
        yield response


def events_of(client: httpx.Client, **fields: object) -> list[dict[str, Any]]:
    """The content of each event of a stream; its type is also the event's name."""
    with streamed(client, **fields) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-cache"
        blocks = [block for block in "".join(response.iter_text()).split("\n\n") if block]
    events = []
    for block in blocks:
        name, content = block.splitlines()
        events.append(json.loads(content.removeprefix("data: ")))
        assert name == f"event: {events[-1].get('type', 'error')}"
    return events


def file_of(event: dict[str, Any]) -> bytes:
    """The image file of an event."""
    return base64.b64decode(event["b64_json"])


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in the body, which must have exactly our shape."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-Request-ID"]
    assert list(response.json()) == ["error"]
    error: dict[str, Any] = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"].endswith((".", "?"))
    return error


HTTP_STAGES = ("receive", "handle", "respond")


def stages_of(response: httpx.Response) -> tuple[dict[str, float], dict[str, float], float]:
    """The milliseconds of each stage but those of HTTP, of each step, and in all, from Server-Timing."""
    stages, steps, total = timing_of(response)
    return {name: spent for name, spent in stages.items() if name not in HTTP_STAGES}, steps, total


def timing_of(response: httpx.Response) -> tuple[dict[str, float], dict[str, float], float]:
    """The milliseconds of each stage, of each step, and in all, from Server-Timing."""
    parts = {
        name: float(milliseconds)
        for name, milliseconds in (
            part.split(";dur=") for part in response.headers["Server-Timing"].split(", ")
        )
    }
    total = parts.pop("total")
    steps = {name: parts.pop(name) for name in list(parts) if name.startswith("step")}
    return parts, steps, total
