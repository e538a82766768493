"""`atelier train nano` runs the stages that it is given, and says in a sentence what stands in their way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT, command

pytestmark = pytest.mark.slow

SIGNALLED = """
import os, signal
from service.training.train import until_signalled
stopped = until_signalled()
print(stopped(), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print(stopped(), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


def train(run: Path, stage: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = command("train", "nano", "--run", run, "--stage", stage, "--device", "cpu")
    return subprocess.run(words, cwd=ROOT, env=environment or None, capture_output=True, text=True)


@pytest.mark.parametrize("stage", ["export", "things"])
def test_a_stage_before_its_time_says_what_is_missing(tmp_path: Path, stage: str) -> None:
    ended = train(tmp_path, stage)
    assert ended.returncode == 1
    assert "run the stages before this one first" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_npm_it_says_what_would_do_instead(tmp_path: Path) -> None:
    ended = train(tmp_path, "fetch", PATH=str(tmp_path))
    assert ended.returncode == 1
    assert "npm, which fetches pictures, is not installed" in ended.stderr
    assert "iconify-json-fluent-emoji-flat-1.2.6.tgz" in ended.stderr


def test_the_first_signal_is_noted_and_the_second_ends_the_process() -> None:
    script = [sys.executable, "-c", SIGNALLED]
    ended = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.split() == ["False", "True"]
    assert ended.returncode == -15
