"""What the service adds to the model's time, for one client, as the service's own headers tell it.

    python -m service.evaluation.overhead --url http://127.0.0.1:8000

Without a URL a server is started for it, in a process of its own and on an empty data folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import torch

from service import __version__
from service.evaluation.hardware import describe

# Stages of Server-Timing in which the model works; all other time is the service's.
MODEL_STAGES = ("text", "style", "transformer", "decode")
WARM_UP = 20
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds of one answer: from the arrival of its request's head to its own head."""

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


def read_overhead(server_timing: str) -> Overhead:
    """From the header `Server-Timing` of a generation: `stage;dur=milliseconds, ...`, `total` among them."""
    milliseconds = {
        name: float(duration)
        for name, duration in (part.split(";dur=") for part in server_timing.split(", "))
    }
    return Overhead(
        total=milliseconds["total"],
        model=sum(milliseconds.get(stage, 0.0) for stage in MODEL_STAGES),
        queue=milliseconds["queue"],
        encode=milliseconds["encode"],
    )


def measure(url: str, body: dict[str, Any], *, repeats: int) -> list[Overhead]:
    """One client, one request after the other, each with a seed of its own."""
    with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
        answers = [
            client.post("/v1/images/generations", json=body | {"seed": seed}).raise_for_status()
            for seed in range(WARM_UP + repeats)
        ]
    return [read_overhead(answer.headers["Server-Timing"]) for answer in answers[WARM_UP:]]


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
        values = [getattr(overhead, name) for overhead in measured]
        lines.append(f"{title:24} {np.percentile(values, 50):8.2f} {np.percentile(values, 95):8.2f}")
    return "\n".join(lines)


@contextmanager
def started(model: str) -> Iterator[str]:
    """The URL of a server of this installation, which ends afterwards."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(  # noqa: S603  # this interpreter
            [sys.executable, "-m", "service", "serve", "--port", "0", "--data-dir", folder, "--model", model],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server,
    ):
        try:
            assert server.stdout is not None
            first = next((line for line in server.stdout if "http://" in line), None)
            if first is None:
                raise SystemExit("The server did not start; `atelier serve` says why.")
            yield next(word for word in first.split() if word.startswith("http://"))
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m service.evaluation.overhead", description=__doc__)
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
        with started(arguments.model) as url:
            measured = measure(url, body, repeats=arguments.repeats)
    print(f"atelier {__version__}; {describe(torch.device('cpu'))}; one client, {WARM_UP} to warm up")
    print(f"{arguments.repeats} images, seeds from {WARM_UP}, {body}\n")
    print(report(measured))


if __name__ == "__main__":
    main()
