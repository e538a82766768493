"""The README's snippets do what it says, copied as a reader would copy them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT
from tests.support.server import Running
from tests.support.uploads import picture

README = (ROOT / "README.md").read_text()
SERVED_AT = "http://127.0.0.1:8000"


def fenced(language: str) -> str:
    (snippet,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return snippet


def curl_lines() -> list[str]:
    section = README[README.index("## First image") : README.index("## From Python")]
    blocks = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return [block for block in blocks if "curl" in block]


def as_served(snippet: str, server: Running, style_id: str = "sty_...") -> str:
    return snippet.replace(SERVED_AT, server.url).replace("sty_...", style_id)


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def need(tool: str) -> str:
    """Its path. Without it the test is skipped, or fails where REQUIRE_TOOLS is set, as .ci/run does."""
    path = shutil.which(tool)
    if path is None:
        (pytest.fail if os.environ.get("REQUIRE_TOOLS") else pytest.skip)(f"there is no {tool} here")
    return path


@pytest.fixture
def style_id(server: Running, tmp_path: Path) -> str:
    need("curl")
    (tmp_path / "style.png").write_bytes(picture())
    upload = curl_lines()[0]
    return str(re.search(r"sty_[a-z2-7]+", run(["bash", "-ec", as_served(upload, server)], tmp_path))[0])  # type: ignore[index]


def test_the_curl_lines_upload_draw_and_show_a_hit(server: Running, style_id: str, tmp_path: Path) -> None:
    upload, draw, count = curl_lines()
    assert "/v1/styles" in upload
    run(["bash", "-ec", as_served(draw, server, style_id)], tmp_path)
    assert (tmp_path / "star.png").read_bytes().startswith(b"\x89PNG")
    found = re.search(r'result="hit"\} (\d+)', run(["bash", "-ec", as_served(count, server)], tmp_path))
    assert found is not None
    assert float(found[1]) >= 1


def test_the_python_snippet_draws(server: Running, style_id: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(as_served(fenced("python"), server, style_id))
    assert run([sys.executable, "snippet.py"], tmp_path).startswith("iVBOR")  # a PNG in base64


def test_the_javascript_snippet_draws(server: Running, style_id: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.mjs").write_text(as_served(fenced("js"), server, style_id))
    run([need("node"), "snippet.mjs"], tmp_path)
    assert (tmp_path / "heart.png").read_bytes().startswith(b"\x89PNG")
