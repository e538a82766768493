"""The sdist builds the wheel, the wheel serves from an empty directory, the lock file is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 120
PAPER_FILES = ("published.json", "report_page.html", "preference_page.html", "preference_page.js")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of the files under version control, and the wheel built from that sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, listed):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            (source / name).write_bytes((ROOT / name).read_bytes())
    # Without isolation: the environment has setuptools, and the build needs no network.
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source],
        check=True,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    return out


def test_the_packages_hold_what_they_should(packages: Path) -> None:
    (wheel,) = packages.glob("*.whl")
    (sdist,) = packages.glob("*.tar.gz")
    installed = zipfile.ZipFile(wheel).namelist()
    assert "service/model/nano/weights/transformer.safetensors" in installed
    assert "service/model/nano/weights/text_encoder/tokenizer.json" in installed
    assert "service/py.typed" in installed
    assert "service/evaluation/weights/clip/preprocessor_config.json" in installed
    assert {f"service/evaluation/paper/{name}" for name in PAPER_FILES} <= {*installed}
    page = ROOT / "service" / "playground"
    files = {str(file.relative_to(ROOT)) for file in page.rglob("*") if file.is_file()}
    assert "service/playground/vendor/LICENSE.preact" in files <= {*installed}
    assert not [name for name in installed if name.startswith(("tests/", "docs/"))]
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())


def test_the_wheel_serves_from_an_empty_directory(packages: Path, tmp_path: Path) -> None:
    """Unpacked, which is what installing a pure wheel does, and found before the working tree."""
    (wheel,) = packages.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site), "ATELIER_DATA_DIR": str(tmp_path / "d")}
    where = [sys.executable, "-c", "import service; print(service.__file__)"]
    found = subprocess.check_output(where, cwd=empty, env=environment, text=True)
    assert Path(found.strip()).is_relative_to(site)
    with subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", "0"],
        cwd=empty,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = re.search(r"http://\S+", server.stdout.readline())
            assert url is not None, "the server ended before it was ready"
            body, headers = {"prompt": "a star", "seed": 1}, {"Accept": "image/png"}
            response = httpx.post(
                f"{url[0]}/v1/images/generations", json=body, headers=headers, timeout=PATIENCE_SECONDS
            )
            assert response.status_code == 200
            assert response.content.startswith(b"\x89PNG")
        finally:
            server.terminate()
    assert server.returncode == 0
    assert not list(empty.iterdir())


def test_the_lock_file_pins_all_dependencies() -> None:
    """`make lock` renews it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "deploy" / "requirements.lock").read_text()
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    needed = {match[0] for line in project["dependencies"] if (match := re.match(r"[a-z0-9-]+", line))}
    assert needed <= pinned
    assert "://" not in lock
