"""Reading `config.json` into frozen dataclasses, with errors that name the field."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
_NAMES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def read_dataclass(cls: type[T], values: object, field: str = "") -> T:
    """`values` as a `cls`. ValueError `transformer.width: Field required` for what is missing, unknown or of
    another type.

    Fields may be int, float, str, bool, tuples, dataclasses, and unions of these; JSON's lists become tuples.
    """
    if not isinstance(values, Mapping):
        raise _mistake(field, "must be an object")
    types_of = get_type_hints(cls)
    required = {known.name for known in fields(cls) if known.default is MISSING}  # type: ignore[arg-type]
    for name in required - values.keys():
        raise _mistake(_inside(field, name), "Field required")
    for name in values.keys() - types_of.keys():
        raise _mistake(_inside(field, name), "Unknown field")
    return cls(**{name: _read(types_of[name], value, _inside(field, name)) for name, value in values.items()})


def _read(wanted: Any, value: object, field: str) -> Any:
    if is_dataclass(wanted):
        return read_dataclass(wanted, value, field)  # type: ignore[arg-type]
    if isinstance(wanted, types.UnionType):
        return _read_union(get_args(wanted), value, field)
    if get_origin(wanted) is tuple:
        return _read_tuple(get_args(wanted), value, field)
    # In JSON 4 is a number as 4.0 is; true is neither.
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not wanted:
        raise _mistake(field, f"must be a valid {_NAMES[wanted]}, not {value!r}")
    return value


def _read_tuple(wanted: tuple[Any, ...], value: object, field: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _mistake(field, f"must be a list, not {value!r}")
    if wanted[-1] is Ellipsis:
        wanted = (wanted[0],) * len(value)
    if len(value) != len(wanted):
        raise _mistake(field, f"must have {len(wanted)} values, not {len(value)}")
    return tuple(
        _read(part, element, _inside(field, index))
        for index, (part, element) in enumerate(zip(wanted, value, strict=True))
    )


def _read_union(wanted: tuple[Any, ...], value: object, field: str) -> Any:
    """As the alternative for an object, a list or a single value, of which each union has one at most."""
    if value is None and type(None) in wanted:
        return None
    is_list = isinstance(value, list | tuple)
    alternatives = [part for part in wanted if part is not type(None)]
    fitting = [part for part in alternatives if (get_origin(part) is tuple) == is_list]
    return _read((fitting or alternatives)[0], value, field)


def _inside(field: str, name: object) -> str:
    return f"{field}.{name}" if field else str(name)


def _mistake(field: str, sentence: str) -> ValueError:
    return ValueError(f"{field}: {sentence}" if field else sentence)
