"""`bench style`: from upload to ID, and a style feature that is in memory, in the store, or lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx2

from service.bench.load import TimedRequest, draw_one, image_requests, picture_file, upload
from service.bench.report import Findings, Row, Table
from service.bench.timing import Samples


@dataclass(frozen=True, slots=True)
class Uploads:
    """Uploads to a first server; a second one has the same store and nothing in memory."""

    style_ids: tuple[str, ...]
    new: Samples
    known: Samples


@dataclass
class Uses:
    """Requests for an image in each style, by where its feature was found."""

    in_memory: list[TimedRequest] = field(default_factory=list)
    stored: list[TimedRequest] = field(default_factory=list)
    rebuilt: list[TimedRequest] = field(default_factory=list)


async def upload_styles(client: httpx2.AsyncClient, *, seed: int, num: int) -> Uploads:
    """Each picture twice, after one that does not count."""
    new: list[float] = []
    known: list[float] = []
    ids: list[str] = []
    for number in range(num + 1):
        picture = picture_file(seed + number)
        for seconds, status in ((new, 201), (known, 200)):
            began = time.perf_counter()
            response = await upload(client, picture)
            seconds.append(time.perf_counter() - began)
            if response.status_code != status:
                raise ValueError(f"The server answered {response.status_code}, not {status}, to an upload.")
        ids.append(response.json()["id"])
    return Uploads(tuple(ids[1:]), Samples(tuple(new[1:])), Samples(tuple(known[1:])))


async def use_styles(
    client: httpx2.AsyncClient, style_ids: Sequence[str], sizes: Sequence[str], *, seed: int
) -> Uses:
    """Each style at the uploads' size, from the store, then from memory; at another size, rebuilt."""
    uses = Uses()
    for style in style_ids:
        send = image_requests(client, style=style, size=sizes[0], seed=seed)
        uses.stored.append(await draw_one(send, 0))
        uses.in_memory.append(await draw_one(send, 1))
        if len(sizes) > 1:
            uses.rebuilt.append(
                await draw_one(image_requests(client, style=style, size=sizes[1], seed=seed), 2)
            )
    return uses


def style_findings(uploads: Uploads, uses: Uses) -> Findings:
    rows = [
        Row("a new picture", uploads.new.values()),
        Row("one that was sent before", uploads.known.values()),
    ]
    found = {
        "in memory": uses.in_memory,
        "in the store": uses.stored,
        "lost, read from the picture": uses.rebuilt,
    }
    features = [Row(name, _of_stage(requests)) for name, requests in found.items() if requests]
    note = (
        "Uploads are PNGs of 1024x768. The feature of a new style is in memory; after a restart it is in the "
        "store; for another size it is rebuilt from the stored picture. The share is of the whole request."
    )
    return Findings(
        (Table("upload to ID", tuple(rows)), Table("style feature of a request", tuple(features))), (note,)
    )


def _of_stage(requests: Sequence[TimedRequest]) -> dict[str, float | int | str | None]:
    samples = Samples(tuple(request.stages["style"] for request in requests))
    whole = Samples(tuple(request.latency for request in requests))
    return {**samples.values(), "request_share": samples.median / whole.median}
