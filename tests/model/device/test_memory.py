"""What a container leaves: folders as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.model.device.memory import headroom


def group(folder: Path, limit: str, used: int, inactive: int = 0) -> None:
    """A group of version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {inactive}\n")


def old_group(folder: Path, limit: int, used: int, inactive: int = 0) -> None:
    """A group of version 1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {inactive}\n")


def test_a_limit_leaves_what_is_not_used_of_it(tmp_path: Path) -> None:
    group(tmp_path / "mine", "1000", 300)
    assert headroom("0::/mine\n", tmp_path) == 700


def test_files_that_were_read_once_do_not_count_as_used(tmp_path: Path) -> None:
    group(tmp_path / "mine", "1000", 900, inactive=250)
    assert headroom("0::/mine\n", tmp_path) == 350


@pytest.mark.parametrize(("outer", "inner"), [("1000", "max"), ("1000", "5000"), ("5000", "1000")])
def test_the_tightest_of_nested_limits_counts(tmp_path: Path, outer: str, inner: str) -> None:
    group(tmp_path / "pod", outer, 300)
    group(tmp_path / "pod" / "container", inner, 300)
    assert headroom("0::/pod/container\n", tmp_path) == 700


def test_a_container_that_sees_only_its_own_groups_root_is_limited_by_it(tmp_path: Path) -> None:
    group(tmp_path, "1000", 300)
    assert headroom("0::/\n", tmp_path) == 700
    assert headroom("0::/machine/a-path-of-the-host\n", tmp_path) == 700


def test_the_first_version_is_read_as_well(tmp_path: Path) -> None:
    old_group(tmp_path / "memory" / "mine", 1000, 400, inactive=50)
    assert headroom("12:cpu,cpuacct:/mine\n4:memory:/mine\n0::/\n", tmp_path) == 650


def test_without_a_limit_there_is_no_headroom_to_tell(tmp_path: Path) -> None:
    group(tmp_path / "mine", "max", 300)
    assert headroom("0::/mine\n", tmp_path) is None
    assert headroom("", tmp_path) is None


def test_a_limit_that_is_overdrawn_leaves_nothing(tmp_path: Path) -> None:
    group(tmp_path / "mine", "1000", 1200)
    assert headroom("0::/mine\n", tmp_path) == 0
