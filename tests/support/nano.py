"""The bundled model and its judge, loaded once for all tests of a process."""

from __future__ import annotations

from functools import cache

from service.evaluation.judge import Judge, load_judge
from service.model.checkpoints import registry
from service.model.engine.generator import Generator


@cache
def nano() -> Generator:
    return registry.load("nano")


@cache
def nano_judge() -> Judge:
    return load_judge()
