"""What the commands share: an output that cannot be written is refused before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import cli


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "nonesuch", "--out", "{}/file/x"],
        ["convert", "nonesuch", "--out", "{}/file"],
        ["extract-weights", "nonesuch", "{}/nowhere/x.safetensors"],
        ["extract-weights", "nonesuch", "{}"],
        ["bench", "flops", "--model", "nonesuch", "--json", "{}/nowhere/report.json"],
        ["bench", "flops", "--model", "nonesuch", "--json", "{}"],
        ["evaluate", "nano", "--model", "nonesuch", "--out", "{}/file/x"],
        ["evaluate", "paper", "--model", "nonesuch", "--out", "{}/file/x"],
        ["evaluate", "tune", "--model", "nonesuch", "--out", "{}/file/x"],
        ["fetch", "nonesuch", "--models-dir", "{}/file/x"],
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "file").touch()
    ended = CliRunner().invoke(cli, [word.format(tmp_path) for word in words])
    assert ended.exit_code == 2, ended.output
    assert str(tmp_path) in ended.output.replace("\n", "").replace("│ ", "").replace(" │", "")
    assert "nonesuch" not in ended.output
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_an_output_in_a_folder_yet_to_be_made_is_not_refused(tmp_path: Path) -> None:
    ended = CliRunner().invoke(cli, ["convert", "nonesuch", "--out", str(tmp_path / "new" / "folder")])
    assert ended.exit_code == 1
    assert "nonesuch" in ended.output
