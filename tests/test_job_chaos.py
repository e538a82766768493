"""Jobs that were accepted outlast kill -9 of the service and of its Valkey; by hand, 200 of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.job_chaos import Chaos, is_kept
from tests.support.process import write_tiny_model

pytestmark = pytest.mark.slow


def test_jobs_outlast_kills_and_each_is_drawn_once_for_its_client(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    log = logging.getLogger("chaos")
    chaos = Chaos(tmp_path / "data", str(tmp_path / "tiny"), num_jobs=12, seed=1, say=log.warning)
    chaos.folder.mkdir()
    seen = chaos.run(service_kills=1, store_kills=1)
    assert is_kept(seen, 12), seen
    assert max(seen.attempts) <= 3
