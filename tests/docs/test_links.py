"""Links and names in Markdown files outside docs/ lead somewhere. Zensical checks the links within docs/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.errors import kinds_of_codes
from service.http.schemas.images import IGNORED, GenerationBody
from service.metrics import Metrics
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
FILES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
PATHS_IN_CODE = re.compile(r"`((?:service|tests|docs|deploy)/[\w./-]*)`")


def anchors_of(page: Path) -> set[str]:
    """As GitHub and Zensical both make them, for headings of plain words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", FILES)
def test_relative_links_lead_to_files_and_headings(file: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / file).read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else ROOT / file
        assert target.exists(), f"{file} links to {path}"
        assert not anchor or anchor in anchors_of(target), f"{file} links to {link}"


@pytest.mark.parametrize(
    "page", [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_paths_in_the_text_exist(page: Path) -> None:
    missing = [path for path in PATHS_IN_CODE.findall(page.read_text()) if not (ROOT / path).exists()]
    assert not missing


def test_the_operations_page_has_all_settings_and_no_others() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page[page.index("## Configuration") : page.index("## API keys")]
    named = set(re.findall(rf"`({PREFIX}\w+)`", table))
    assert named == {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_limits_page_has_all_bounds_with_their_defaults() -> None:
    page = (ROOT / "docs" / "limits.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line]
    stated = {name: row[2] for row in rows for name in re.findall(rf"`({PREFIX}\w+)`", row[1])}
    bounds = {
        PREFIX + name.upper(): field.default
        for name, field in Settings.model_fields.items()
        if name.startswith("max_") or name.endswith(("_seconds", "_per_minute"))
    }
    assert stated == {
        name: "none" if default is None else f"{default:.0f}" for name, default in bounds.items()
    }


def test_the_codes_of_the_limits_page_are_those_of_errors() -> None:
    page = (ROOT / "docs" / "limits.md").read_text()
    kinds = kinds_of_codes()
    named = re.findall(r"(\d{3}) `([a-z_]+)`", page)
    assert named
    assert [(int(status), code) for status, code in named] == [
        (kinds[code].status, code) for _, code in named
    ]


def test_the_operations_page_has_all_metrics_and_no_others() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page[page.index("## Metrics and alerts") : page.index("## Logs")]
    named = set(re.findall(r"`(atelier_\w+)`", table))
    ours = [family for family in Metrics().registry.collect() if family.name.startswith("atelier_")]
    suffixes = {"counter": "_total", "info": "_info"}
    assert named == {family.name + suffixes.get(family.type, "") for family in ours}


def test_the_api_page_has_all_fields_of_a_generation_request() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    named = set(re.findall(r"`([a-z_]+)", page))
    of_clients = set(re.findall(r"`([a-z_]+)", (ROOT / "docs" / "clients.md").read_text()))
    accepted_for_openai = {"background", "moderation", *IGNORED}
    assert set(GenerationBody.model_fields) - accepted_for_openai <= named
    assert accepted_for_openai <= of_clients
