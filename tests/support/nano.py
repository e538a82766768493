"""The bundled model and its judge, loaded once for all tests of a process."""

from __future__ import annotations

from functools import cache

from service.evaluation.judge import Judge, load_judge
from service.evaluation.stylisation import things_of
from service.model.checkpoints import registry
from service.model.engine.generator import Generator


@cache
def nano() -> Generator:
    return registry.load("nano")


def nano_things() -> tuple[str, ...]:
    """What the weights in the package draw."""
    return things_of(nano())


@cache
def nano_judge() -> Judge:
    return load_judge()
