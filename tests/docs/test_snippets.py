"""The snippets of the README and of docs/ do what the text says, copied as a reader would copy them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT
from tests.support.server import Running
from tests.support.tools import need
from tests.support.uploads import picture

pytestmark = pytest.mark.slow

SERVED_AT = "http://127.0.0.1:8000"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
UPLOAD = re.compile(r"curl [^\n]*-F image=@style.png[^\n]*")
PNG, PNG_IN_BASE64 = b"\x89PNG", "iVBORw0KGgo"


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def indented(page: Path) -> list[str]:
    return re.findall(r"(?:^    .*\n)+", page.read_text(), re.MULTILINE)


def snippets(language: str) -> dict[str, str]:
    """By page and place."""
    return {
        f"{page.stem}-{language}-{number}": snippet
        for page in PAGES
        for number, snippet in enumerate(fenced(page, language), start=1)
    }


def curl_snippets() -> dict[str, str]:
    """All shell snippets that call the service; those that only install or start something are not run."""
    plain = {
        f"{page.stem}-{number}": snippet
        for page in PAGES
        for number, snippet in enumerate(indented(page), start=1)
    }
    return {name: snippet for name, snippet in (snippets("sh") | plain).items() if "curl" in snippet}


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def style_id(server: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a style that the README's own upload created."""
    need("curl")
    folder = tmp_path_factory.mktemp("upload")
    (folder / "style.png").write_bytes(picture())
    upload = UPLOAD.search((ROOT / "README.md").read_text())
    assert upload is not None
    response = run(["bash", "-ec", upload[0].replace(SERVED_AT, server.url)], folder)
    found = re.search(r"sty_[a-z2-7]+", response)
    assert found is not None, response
    return found[0]


def as_served(snippet: str, server: Running, style_id: str) -> str:
    return snippet.replace(SERVED_AT, server.url).replace("sty_...", style_id)


@pytest.mark.parametrize("snippet", curl_snippets().values(), ids=curl_snippets())
def test_a_curl_snippet_succeeds(snippet: str, server: Running, style_id: str, tmp_path: Path) -> None:
    (tmp_path / "style.png").write_bytes(picture())
    output = run(["bash", "-ec", as_served(snippet, server, style_id)], tmp_path)
    assert '"error"' not in output
    if written := re.search(r"-o (\S+\.png)", snippet):
        assert (tmp_path / written[1]).read_bytes().startswith(PNG)
    elif "generations" in snippet:
        assert PNG_IN_BASE64 in output
    elif "/metrics" in snippet:
        assert 'result="hit"' in output
    else:
        assert '"id":"sty_' in output


@pytest.mark.parametrize("snippet", snippets("python").values(), ids=snippets("python"))
def test_a_python_snippet_draws(snippet: str, server: Running, style_id: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(as_served(snippet, server, style_id))
    assert PNG_IN_BASE64 in run([sys.executable, "snippet.py"], tmp_path)


@pytest.mark.parametrize("snippet", snippets("js").values(), ids=snippets("js"))
def test_a_javascript_snippet_draws(snippet: str, server: Running, style_id: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.mjs").write_text(as_served(snippet, server, style_id))
    run([need("node"), "snippet.mjs"], tmp_path)
    assert (tmp_path / "heart.png").read_bytes().startswith(PNG)


def test_images_in_a_style_count_as_hits(server: Running, style_id: str, tmp_path: Path) -> None:
    guide = fenced(ROOT / "docs" / "guide.md", "sh")
    draw, count = (next(found for found in guide if part in found) for part in ("generations", "/metrics"))

    def num_hits() -> float:
        output = run(["bash", "-ec", as_served(count, server, style_id)], tmp_path)
        found = re.search(r'result="hit"\} (\S+)', output)
        assert found is not None, output
        return float(found[1])

    before = num_hits()
    run(["bash", "-ec", as_served(draw, server, style_id)], tmp_path)
    assert num_hits() == before + 1


def test_the_readme_has_a_curl_and_a_python_snippet() -> None:
    assert len(curl_snippets()) >= 8
    assert len(fenced(ROOT / "README.md", "python")) == 1
    assert UPLOAD.search((ROOT / "README.md").read_text())
