"""Programs that tests run beside Python."""

from __future__ import annotations

import os
import shutil

import pytest


def need(tool: str) -> str:
    """Its path. Without it the test is skipped, or fails where REQUIRE_TOOLS is set, as .ci/run does."""
    path = shutil.which(tool)
    if path is None:
        (pytest.fail if os.environ.get("REQUIRE_TOOLS") else pytest.skip)(f"there is no {tool} here")
    return path
