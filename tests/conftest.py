"""Fixtures: the service over HTTP, and a real style store."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import structlog

# Read by torch when it is imported. The tiny model has no use for more threads, and on a machine that has
# other work to do, threads that wait for each other take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Our log lines go to the standard library's logging, where pytest keeps them with the test they belong to.
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer(sort_keys=True)],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from service.storage.embedded_valkey.server import EmbeddedValkey
    from tests.support.server import Running


# A file that is slow, or large, as a whole.
_IS_SLOW = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.(slow|large)\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Quick tests do not wait for what slow ones import, and for the cases that Schemathesis makes up."""
    if "not slow" not in config.getoption("markexpr") or collection_path.suffix != ".py":
        return None
    return True if _IS_SLOW.search(collection_path.read_text()) else None


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A ready server of the tiny Infinity, or of the tiny backbone that is asked for, with its own store.

    Without metadata, so that the files of two images differ exactly where their pixels do.
    """
    # Imported here, so that tests of one part run without loading all the others.
    from service.settings import Settings
    from tests.support.backbones import MAKERS
    from tests.support.server import serving

    generator = MAKERS[getattr(request, "param", "infinity")]()
    settings = Settings(data_dir=tmp_path_factory.mktemp("server"), metadata="none")
    with serving(settings, generator) as running:
        running.wait_until_settled()
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """An embedded server on a folder of its own."""
    from tests.support.valkey import running_server

    async with running_server(tmp_path) as server:
        yield server


@pytest.fixture
async def redis(valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    from service.storage.client import connect

    async with connect(valkey.url) as redis:
        yield redis
