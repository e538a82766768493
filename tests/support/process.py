"""`atelier serve` as users run it: a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch

from service.model.nano.words import untrained_encoder, write_vocabulary
from service.training.write import write_infinity
from tests.support.tiny import tiny_config, tiny_infinity

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


def write_tiny_model(folder: Path) -> None:
    """The tiny model as a folder that `--model` takes."""
    config, backbone = tiny_config(), tiny_infinity()
    write_infinity(folder, config, backbone.transformer, backbone.tokenizer, torch.float32)
    num_words = write_vocabulary(folder / "text_encoder")
    untrained_encoder(num_words, config.transformer.text_channels).save_pretrained(folder / "text_encoder")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "service", *map(str, arguments)]


@dataclass(frozen=True)
class Serving:
    """A server process that said it is ready; `hint` is all that it said."""

    process: subprocess.Popen[str]
    hint: str

    @property
    def url(self) -> str:
        found = re.search(r"http://\S+", self.hint)
        assert found is not None
        return found[0]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)

    def end(self, how: signal.Signals) -> int:
        """Send the signal; the exit status."""
        os.kill(self.process.pid, how)
        return self.process.wait(PATIENCE_SECONDS)


def serve(
    *arguments: str | Path, log: Path, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[Serving]:
    """`atelier serve` on a free port; its log goes to a file. `environment` is added to this process's."""
    return started(command("serve", "--port", "0", *arguments), log=log, environment=environment)


@contextmanager
def started(
    server: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """The process of a command that serves, once it says that it is ready."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            server,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            hint = ""
            while "/metrics" not in hint:
                line = process.stdout.readline()
                assert line, f"the server ended before it was ready: {log.read_text()}"
                hint += line
            yield Serving(process, hint)
        finally:
            process.kill()
