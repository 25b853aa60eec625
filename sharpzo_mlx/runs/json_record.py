"""The base of dataclasses that are kept as JSON: plain values out, and every type checked on the way in.

A record declares its fields once, as a frozen dataclass of numbers, texts, tuples, dictionaries and other records.

>>> @dataclasses.dataclass(frozen=True)
... class Point(JsonRecord):
...     x: float
>>> Point.from_json(Point(1.5).to_json())
Point(x=1.5)
>>> Point.from_json({"x": "far"})
Traceback (most recent call last):
ValueError: x is not a number
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

R = TypeVar("R", bound="JsonRecord")
_PLAIN: Mapping[type, tuple[tuple[type, ...], str]] = {
    float: ((int, float), "a number"),
    int: ((int,), "a whole number"),
    str: ((str,), "a text"),
    bool: ((bool,), "true or false"),
}


class JsonRecord:
    """A frozen dataclass that can be written to JSON and read back."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values.

        A number that is not finite becomes None, because JSON cannot hold it. A field that is None by default is left
        out while it is None.
        """
        return {
            item.name: _plain(value)
            for item in dataclasses.fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, item.name)) is not None or item.default is not None
        }

    @classmethod
    def from_json(cls: type[R], content: object, name: str = "") -> R:
        """Make the record from plain values; keys that it does not know are ignored.

        Args:
            content: what JSON gave.
            name: the record's place in its file, for messages; empty for the whole file.

        Raises:
            ValueError: a field is missing or of another type; the message names it.
        """
        return _record(cls, content, name)


def _plain(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _record(kind: type[R], content: object, name: str) -> R:
    """Read one record; `name` is the path to it in the file, empty for the whole."""
    if not isinstance(content, dict):
        raise ValueError(f"{name or 'the content'} is not an object")
    found = {}
    for field, (hint, required) in _declared(cast(Hashable, kind)).items():
        place = f"{name}.{field}" if name else field
        if field in content:
            found[field] = _checked(hint, content[field], place)
        elif required:
            raise ValueError(f"{place} is missing")
    return kind(**found)


@cache
def _declared(kind: Hashable) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field, and whether it must be there."""
    assert isinstance(kind, type)
    hints = get_type_hints(kind)
    return {
        item.name: (hints[item.name], item.default is item.default_factory is dataclasses.MISSING)
        for item in dataclasses.fields(kind)
    }


def _checked(hint: Any, value: Any, name: str) -> Any:
    """Return the value as the type asks for it, or raise ValueError with its name."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (one for one in arguments if one is not type(None))
        return None if value is None else _checked(inner, value, name)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _checked_tuple(arguments, value, name)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not an object")
        return {key: _checked(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
    if issubclass(hint, JsonRecord):
        return _record(hint, value, name)
    accepted, words = _PLAIN[hint]
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{name} is not {words}")
    return hint(value)


def _checked_tuple(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} is not a list")
    hints = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
    if len(hints) != len(value):
        raise ValueError(f"{name} has {len(value)} entries, not {len(hints)}")
    return tuple(
        _checked(hint, item, f"{name}[{place}]") for place, (hint, item) in enumerate(zip(hints, value, strict=True))
    )
