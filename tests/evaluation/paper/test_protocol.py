"""Prompts and styles from files: what is read, and what is refused with a sentence that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from service.evaluation.paper.protocol import Protocol, nano_protocol, read_prompts, read_styles
from service.evaluation.paper.scoring import object_of
from service.evaluation.references import search_references
from service.training.scene import MEDIA


def styles_folder(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        Image.new("RGB", (20 + index, 16), (index, 0, 0)).save(folder / name)
    return folder


def test_prompts_are_lines_or_the_column_of_partiprompts(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("# mine\na cat\n\n  a dog \na cat\n", encoding="utf-8-sig")
    assert read_prompts(tmp_path / "lines.txt") == ("a cat", "a dog")
    (tmp_path / "parti.tsv").write_text('Prompt\tCategory\n"a cat, asleep"\tAnimals\na bridge\tOutdoor\n')
    assert read_prompts(tmp_path / "parti.tsv") == ("a cat, asleep", "a bridge")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"# nothing\n", "has no prompts: write one a line"),
        ("other.tsv", b"Text\tCategory\na\tb\n", "no column Prompt; its columns are Text, Category"),
        ("binary.txt", b"\xff\xfe\x00\x81", "cannot be read"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name)


def test_styles_have_the_words_and_captions_of_their_file(tmp_path: Path) -> None:
    folder = styles_folder(tmp_path / "styles", "wood.png", "neon.webp")
    about = {"wood.png": {"words": "wood grain style", "caption": "a circle"}}
    (folder / "styles.json").write_text(json.dumps(about))
    neon, wood = read_styles(folder)
    assert (neon.name, neon.words, neon.picture.shape) == ("neon", "", (16, 21, 3))
    assert (wood.words, wood.caption) == ("wood grain style", "a circle")
    assert not Protocol(("a", "b"), (neon, wood)).has_words


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ('{"gone.png": {"words": "x"}}', r"names gone\.png, which .* does not have"),
        ('{"wood.png": {"word": "x"}}', "has word; a style has words and caption"),
        ('["wood.png"]', "must look like"),
        ("{", "must look like"),
    ],
)
def test_a_file_of_words_that_does_not_fit_is_refused(tmp_path: Path, about: str, message: str) -> None:
    folder = styles_folder(tmp_path / "styles", "wood.png")
    (folder / "styles.json").write_text(about)
    with pytest.raises(ValueError, match=message):
        read_styles(folder)


def test_a_folder_of_styles_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder of style images"):
        read_styles(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no style images: \.png"):
        read_styles(tmp_path)
    twice = styles_folder(tmp_path / "twice", "wood.png", "wood.webp")
    with pytest.raises(ValueError, match="two pictures of one name"):
        read_styles(twice)
    (broken := styles_folder(tmp_path / "broken", "a.png") / "b.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=rf"{broken} cannot be read as a picture"):
        read_styles(broken.parent)


def test_one_prompt_or_one_style_is_too_few() -> None:
    world = nano_protocol(2, 2)
    with pytest.raises(ValueError, match="1 prompts and 2 styles are too few"):
        Protocol(world.prompts[:1], world.styles)


def test_nanos_prompts_never_name_what_a_style_image_shows() -> None:
    world = nano_protocol(16, 12)
    shown = {style.scene.object for style in world.styles if style.scene}
    assert not shown & {object_of(prompt) for prompt in world.prompts}
    assert [style.scene.medium for style in world.styles[:8] if style.scene] == list(MEDIA)
    cells = list(world.cells())
    assert len(cells) == 16 * 12
    assert all(cell.prompt != cell.other_prompt and cell.style is not cell.other_style for cell in cells)
    assert {cell.seed for cell in cells if cell.row == 3} == {world.seed + 3}


def test_nanos_styles_are_as_many_as_there_are_renders_and_those_of_the_search_are_others() -> None:
    with pytest.raises(ValueError, match=r"9999 styles are too many: nano's world has \d+ style images"):
        nano_protocol(2, 9999)
    found = search_references()
    searched, reported = nano_protocol(2, 16, 1, found), nano_protocol(2, 16)
    pictures = {style.picture.tobytes() for style in searched.styles}
    assert not pictures & {style.picture.tobytes() for style in reported.styles}


def test_an_object_of_several_words_is_read_whole() -> None:
    assert object_of("A christmas tree, please") == "christmas tree"
    assert object_of("a tree") == "tree"
    with pytest.raises(ValueError, match="names none of nano's objects: "):
        object_of("a catalogue")


def test_the_fingerprint_is_of_all_that_is_drawn_and_compared() -> None:
    world = nano_protocol(3, 3)
    assert world.fingerprint == nano_protocol(3, 3).fingerprint
    changed = (
        Protocol(world.prompts[::-1], world.styles),
        Protocol(world.prompts, world.styles[::-1]),
        Protocol(world.prompts, world.styles, seed=2),
    )
    assert len({world.fingerprint, *(other.fingerprint for other in changed)}) == 4
