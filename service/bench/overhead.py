"""The time that the service adds to the model's, for one client, from the service's own Server-Timing.

    python -m service.bench.overhead --url http://127.0.0.1:8000

Without a URL a server is started for it, in a process of its own and on an empty data folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import torch

from service import __version__
from service.bench.load import stages_of
from service.bench.server import ServerOptions, running
from service.evaluation.hardware import describe

# Stages of Server-Timing in which the model works; all other time is the service's.
MODEL_STAGES = ("text", "style", "tokenize", "transformer", "decode")
WARM_UP = 20
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of one response: from the arrival of its request's head to its own head."""

    total: float
    model: float
    queue: float  # to the model thread and back: here a job waits for nothing else
    encode: float

    @property
    def outside(self) -> float:
        """Outside the model."""
        return self.total - self.model

    @property
    def http(self) -> float:
        """Reading the request, finding its route, checking it, and writing the answer."""
        return self.outside - self.queue - self.encode


def read_overhead(headers: httpx2.Headers) -> Overhead:
    """From the Server-Timing of a response with images."""
    seconds = stages_of(headers)
    return Overhead(
        total=seconds["total"],
        model=sum(seconds.get(stage, 0.0) for stage in MODEL_STAGES),
        queue=seconds["queue"],
        encode=seconds["encode"],
    )


def measure(url: str, body: dict[str, Any], *, repeats: int) -> list[Overhead]:
    """One client, one request after the other, each with a seed of its own."""
    with httpx2.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
        responses = [
            client.post("/v1/images/generations", json=body | {"seed": seed}).raise_for_status()
            for seed in range(WARM_UP + repeats)
        ]
    return [read_overhead(response.headers) for response in responses[WARM_UP:]]


def report(measured: Sequence[Overhead]) -> str:
    """A line for each part, with its percentiles."""
    lines = [f"{'milliseconds':24} {'p50':>8} {'p95':>8}"]
    for title, name in (
        ("in the model", "model"),
        ("outside the model", "outside"),
        ("  to its thread and back", "queue"),
        ("  encoding the image", "encode"),
        ("  HTTP", "http"),
    ):
        values = [1000 * getattr(overhead, name) for overhead in measured]
        lines.append(f"{title:24} {np.percentile(values, 50):8.2f} {np.percentile(values, 95):8.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m service.bench.overhead", description=__doc__)
    parser.add_argument("--url", help="of a server that has nothing else to do; one is started by default")
    parser.add_argument("--model", default="nano", help="of the server that is started")
    parser.add_argument("--prompt", default="a red star")
    parser.add_argument("--style", help="ID of a style, or its code")
    parser.add_argument("--output-format", default="png", choices=["png", "jpeg", "webp"])
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    body = {"prompt": arguments.prompt, "output_format": arguments.output_format}
    if arguments.style is not None:
        body["style"] = arguments.style
    if arguments.url is not None:
        measured = measure(arguments.url, body, repeats=arguments.repeats)
    else:
        with tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder:
            options = ServerOptions({"model": arguments.model}, None, folder)
            with running(options) as server:
                measured = measure(server.url, body, repeats=arguments.repeats)
    print(f"atelier {__version__}; {describe(torch.device('cpu'))}; one client, {WARM_UP} to warm up")
    print(f"{arguments.repeats} images, seeds from {WARM_UP}, {body}\n")
    print(report(measured))


if __name__ == "__main__":
    main()
