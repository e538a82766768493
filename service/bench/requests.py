"""What the bench asks a server for."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx2
import numpy as np

from service.bench.load import Answer, Send, ask
from service.media.images import OutputFormat, encode_image

_SAMPLE = re.compile(r'^atelier_batch_size_(sum|count)\{queue="generate"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says of its model: the first size is its default."""

    fingerprint: str
    precision: str
    sizes: tuple[str, ...]


async def served(client: httpx2.AsyncClient) -> Served:
    (model,) = (await client.get("/v1/models")).json()["data"]
    return Served(model["fingerprint"], model["precision"], tuple(model["sizes"]))


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
    answer = await upload(client, picture_file(seed))
    answer.raise_for_status()
    found: str = answer.json()["id"]
    return found


def drawing(client: httpx2.AsyncClient, *, style: str, size: str, seed: int) -> Send:
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


async def drawn(send: Send, number: int) -> Answer:
    """One answered image. ValueError when it was refused."""
    answer = await ask(send, number)
    if answer.status != 200:
        raise ValueError(f"The server answered {answer.status} to a lone request for an image.")
    return answer


async def num_batches(client: httpx2.AsyncClient) -> tuple[float, float]:
    """Jobs drawn and batches run since the server started."""
    found = dict(_SAMPLE.findall((await client.get("/metrics")).text))
    return float(found.get("sum", 0)), float(found.get("count", 0))
