"""A document of headings, paragraphs, tables and pictures, as Markdown with files and as one HTML page."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

FIGURES = "figures"
_PAGE = Path(__file__).parent / "report_page.html"
# An interval goes under its value, in small: beside it, a table would be twice as wide.
_INTERVAL, _SMALL = re.compile(r" \(([-\d.]+ to [-\d.]+)\)$"), r" <small>\1</small>"
_MEDIA_TYPES = {".svg": "image/svg+xml", ".webp": "image/webp"}


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """`name` is that of its file, and says by its suffix what `content` is."""

    name: str
    content: bytes
    text: str  # for who cannot see it

    @property
    def uri(self) -> str:
        media_type = _MEDIA_TYPES[Path(self.name).suffix]
        return f"data:{media_type};base64,{base64.b64encode(self.content).decode()}"


Block = Heading | Paragraph | Table | Picture


def as_markdown(blocks: Sequence[Block]) -> str:
    """Pictures are links to files in `figures/`."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Table(head, rows):
            lines = [head, ("-",) * len(head), *rows]
            return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)
        case Picture(name, _, text):
            return f"![{text}]({FIGURES}/{name})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def as_page(title: str, blocks: Sequence[Block]) -> str:
    """A page that needs no other file and loads nothing."""
    body = "\n".join(_html(block) for block in blocks)
    return Template(_PAGE.read_text()).substitute(title=html.escape(title), body=body)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Table(head, rows):
            columns = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
            lines = "\n".join(_row(row) for row in rows)
            return (
                f'<div class="table" tabindex="0"><table><thead><tr>{columns}</tr></thead>\n'
                f"<tbody>{lines}</tbody></table></div>"
            )
        case Picture(_, _, text):
            return f'<img src="{block.uri}" alt="{html.escape(text)}">'


def _row(cells: Sequence[str]) -> str:
    label, *others = (html.escape(cell) for cell in cells)
    values = "".join(f"<td>{_INTERVAL.sub(_SMALL, cell)}</td>" for cell in others)
    return f'<tr><th scope="row">{label}</th>{values}</tr>'


def save(folder: Path, title: str, blocks: Sequence[Block]) -> str:
    """Writes report.md with its figures, and report.html; returns the Markdown."""
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Picture):
            (folder / FIGURES / block.name).write_bytes(block.content)
    text = as_markdown(blocks)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(as_page(title, blocks))
    return text
