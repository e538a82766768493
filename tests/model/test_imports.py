"""The model runs without the service's libraries: a GPU machine needs torch and few others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.process import ROOT

pytestmark = pytest.mark.slow

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "pydantic_settings", "redis", "structlog", "isal", "fastapi",
                                  "starlette", "uvicorn", "prometheus_client", "cachetools"}:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""


def test_the_model_imports_without_the_services_libraries() -> None:
    modules = "service.model.checkpoints.registry, service.model.engine.generator, service.evaluation.verify"
    code = f"{BLOCKED}\nimport {modules}"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
