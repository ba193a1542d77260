"""Values of configurations are held to the types that their fields declare: what came from JSON or a caller is refused by name."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from itertools import repeat
from typing import Any, Union, get_args, get_origin, get_type_hints

_NAMES = {bool: "true or false", int: "an integer", float: "a finite number", str: "a text", dict: "named values", type(None): "nothing"}


def check_types(config: type[object], values: Mapping[str, object]) -> None:
    """Hold each value to the type of the field of that name; an integer serves as a number, true and false only as what they are.

    Raises: ValueError naming the first field whose value has another type, and the value.
    """
    kinds = get_type_hints(config)
    for name, value in values.items():
        kind = kinds[name]
        if not _is(value, kind):
            raise ValueError(f"{name} must be {_text(kind)}, got {value!r}")


def check_fields(config: Any) -> None:
    """`check_types` of all fields of a dataclass's instance."""
    check_types(type(config), {name: getattr(config, name) for name in type(config).__dataclass_fields__})


def _is(value: object, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_is(value, part) for part in parts)
    if origin is tuple:
        kinds = repeat(parts[0]) if parts[-1] is ... else parts
        return isinstance(value, tuple) and (parts[-1] is ... or len(value) == len(parts)) and all(map(_is, value, kinds))
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, origin or kind)


def _text(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_text, parts))
    if origin is tuple:
        return f"a list of {_text(parts[0])} each" if parts[-1] is ... else f"a list of {len(parts)}, {_text(parts[0])} each"
    kind = origin or kind
    return _NAMES.get(kind, f"a {kind.__name__}")
