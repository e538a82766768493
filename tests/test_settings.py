"""Settings come from the environment and from flags, and a mistake is reported in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import ClientSettings, Settings, default_threads, read_settings
from tests.support.process import ROOT


def test_the_environment_sets_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_PORT", "9000")
    monkeypatch.setenv("ATELIER_DATA_DIR", "/somewhere")
    settings = read_settings(port=9001, data_dir=None)
    assert settings.port == 9001
    assert settings.data_dir == Path("/somewhere")
    assert settings.models_dir == Path("/somewhere/models")


def test_an_unknown_variable_is_refused_with_the_nearest_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_MAX_QUEUE", "5")
    with pytest.raises(ValueError, match=r"^ATELIER_MAX_QUEUE is not a setting.*ATELIER_MAX_QUEUED$"):
        read_settings()


def test_the_variables_of_clients_are_known_and_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("ATELIER_API_KEY", "atl_secret")
    assert not {"url", "api_key"} & set(read_settings().model_dump())
    assert "secret" not in repr(ClientSettings())
    monkeypatch.setenv("ATELIER_API_KEY", "")
    assert ClientSettings().api_key is None


def test_a_value_out_of_range_is_named_with_the_allowed_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_PORT", "70000")
    with pytest.raises(ValueError, match=r"^ATELIER_PORT must be less than or equal to 65535, not '70000'$"):
        read_settings()


def test_all_mistakes_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_PORT", "x")
    with pytest.raises(ValueError, match="PORT") as refused:
        read_settings(log_format="xml")
    assert len(str(refused.value).splitlines()) == 2


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize(
    ("quota", "num_threads"),
    [
        ({}, 7),
        ({"cpu.max": "max 100000\n"}, 7),
        ({"cpu.max": "250000 100000\n"}, 2),  # two cores and a half
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"app/cpu.max": "400000 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/app/cpu.cfs_quota_us": "-1\n", "cpu/app/cpu.cfs_period_us": "100000\n"}, 7),
    ],
)
def test_a_core_is_left_to_others_of_those_that_a_container_may_use(
    tmp_path: Path, quota: dict[str, str], num_threads: int
) -> None:
    for name, text in quota.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    groups = "4:memory:/app\n1:cpu:/app\n0::/app\n"
    assert default_threads(8, groups, tmp_path) == num_threads


def test_a_single_core_has_a_thread() -> None:
    assert default_threads(1, "") == default_threads(2, "") == 1
    assert default_threads() >= 1


@pytest.mark.slow
def test_prepare_torch_sets_idle_threads_and_memory_unless_already_set() -> None:
    """In a new process, because torch reads the environment once, when it is imported."""
    code = (
        "from service.settings import default_threads, Settings, prepare_torch\n"
        "prepare_torch(Settings(threads=1))\n"
        "import os, torch\n"
        "print(torch.get_num_threads(), os.environ['GOMP_SPINCOUNT'], os.environ['OMP_WAIT_POLICY'],"
        " os.environ.get('PYTORCH_ALLOC_CONF'))"
    )

    def found(**chosen: str) -> str:
        command = [sys.executable, "-c", code]
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTORCH", "GOMP", "OMP"))
        }
        return subprocess.check_output(
            command, cwd=ROOT, env=clean | {"OMP_NUM_THREADS": "2"} | chosen, text=True
        ).strip()

    assert found() == "1 5000 PASSIVE expandable_segments:True"
    theirs = found(
        GOMP_SPINCOUNT="0", OMP_WAIT_POLICY="ACTIVE", PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:64"
    )
    assert theirs == "1 0 ACTIVE None"
