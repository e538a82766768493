"""An open-loop load: arrivals decided in advance, requests sent when due, latency counted from the arrival.

A client that waits for a response before it sends the next request slows down with the server, and so leaves
out the very waits that it should measure (coordinated omission).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx2
import numpy as np

from service.media.images import OutputFormat, encode_image


def arrivals(rate: float, seconds: float, seed: int) -> tuple[float, ...]:
    """Times in seconds from the start, ascending: `rate * seconds` of them, at least one, within `seconds`.

    A Poisson process given its number: independent clients, and yet exactly the rate asked for. Equal seeds
    give equal arrivals.
    """
    if not (rate > 0 and seconds > 0):
        raise ValueError(f"a load has a rate and a duration above 0, not {rate:g} a second for {seconds:g} s")
    num = max(1, round(rate * seconds))
    times = np.sort(np.random.default_rng(seed).uniform(0, seconds, num))
    return tuple(float(time) for time in times)


_TIMING = re.compile(r"(\w+);dur=([\d.]+)")


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """One request and its response. Times are seconds since the load began; `stages` are the server's."""

    due: float
    sent: float
    ended: float
    status: int  # 0: no response came
    stages: dict[str, float]

    @property
    def latency(self) -> float:
        return self.ended - self.due

    @property
    def lateness(self) -> float:
        """How much later than due the client sent it: the client's own failure to keep up."""
        return self.sent - self.due


Send = Callable[[int], Awaitable[httpx2.Response]]


async def offer(due: Sequence[float], send: Send) -> list[TimedRequest]:
    """Send request `number` at `due[number]`, all of them, and wait for every response."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_timed(began, at, number, send)) for number, at in enumerate(due)]
    return [task.result() for task in tasks]


async def send_now(send: Send, number: int) -> TimedRequest:
    """One request, due now."""
    return await _timed(time.perf_counter(), 0.0, number, send)


async def _timed(began: float, due: float, number: int, send: Send) -> TimedRequest:
    await asyncio.sleep(began + due - time.perf_counter())
    sent = time.perf_counter() - began
    try:
        response = await send(number)
    except httpx2.TransportError:
        return TimedRequest(due, sent, time.perf_counter() - began, 0, {})
    ended = time.perf_counter() - began
    return TimedRequest(due, sent, ended, response.status_code, stages_of(response.headers))


def stages_of(headers: httpx2.Headers) -> dict[str, float]:
    """Seconds by stage, from Server-Timing."""
    timing = headers.get("server-timing", "")
    return {name: float(milliseconds) / 1000 for name, milliseconds in _TIMING.findall(timing)}


_SAMPLE = re.compile(r'^atelier_batch_size_(sum|count)\{queue="generate"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that a server serves: the first size is its default."""

    fingerprint: str
    precision: str
    sizes: tuple[str, ...]


async def read_model(client: httpx2.AsyncClient) -> ServedModel:
    (model,) = (await client.get("/v1/models")).json()["data"]
    return ServedModel(model["fingerprint"], model["precision"], tuple(model["sizes"]))


def picture_file(seed: int, width: int = 1024, height: int = 768) -> bytes:
    """A PNG of coloured blocks with some grain, as an app would upload; each seed has its own."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 224, (-(-height // 64), -(-width // 64), 3), dtype=np.uint8)
    pixels = blocks.repeat(64, 0).repeat(64, 1)[:height, :width]
    grain = rng.integers(0, 32, (height, width, 3), dtype=np.uint8)
    return encode_image(pixels + grain, OutputFormat.PNG, compression=None)


async def upload(client: httpx2.AsyncClient, picture: bytes) -> httpx2.Response:
    return await client.post("/v1/styles", files={"image": ("style.png", picture, "image/png")})


async def new_style(client: httpx2.AsyncClient, seed: int) -> str:
    """The ID of a style that nothing else uses."""
    response = await upload(client, picture_file(seed))
    response.raise_for_status()
    found: str = response.json()["id"]
    return found


def image_requests(client: httpx2.AsyncClient, *, style: str, size: str, seed: int) -> Send:
    """Requests for stylised images: another prompt and another seed, from `seed` on, for each number."""

    async def send(number: int) -> httpx2.Response:
        body = {
            "prompt": f"a red star on a blue background {seed + number}",
            "style": style,
            "seed": seed + number,
            "size": size,
        }
        return await client.post("/v1/images/generations", json=body, headers={"Accept": "image/png"})

    return send


async def draw_one(send: Send, number: int) -> TimedRequest:
    """Request `number`, alone. ValueError unless the response is an image."""
    request = await send_now(send, number)
    if request.status != 200:
        raise ValueError(f"The server answered {request.status} to a single request for an image.")
    return request


async def num_batches(client: httpx2.AsyncClient) -> tuple[float, float]:
    """Jobs drawn and batches run since the server started."""
    found = dict(_SAMPLE.findall((await client.get("/metrics")).text))
    return float(found.get("sum", 0)), float(found.get("count", 0))
