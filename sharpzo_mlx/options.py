"""Declare an option once, as a field of a frozen dataclass: its default, its range and its help text.

The type hint says what kind of value an option takes; a `Literal` lists its choices. The command line, the check of a
configuration, the settings file and the reference page are all made from these declarations.

>>> @dataclasses.dataclass(frozen=True)
... class Oven:
...     group = "oven"
...     heat: float = option(180.0, "temperature in degrees", above=0, maximum=300)
...     def __post_init__(self) -> None:
...         check(self)
>>> Oven(heat=400.0)
Traceback (most recent call last):
sharpzo_mlx.errors.UserError: oven.heat 400.0: must be at most 300
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from sharpzo_mlx.errors import UserError

NONE = "none"  # how a missing value is written in text


@dataclass(frozen=True)
class Limits:
    """The help text and the range of one option.

    Attributes:
        help: one line for the user.
        minimum: the smallest allowed value.
        maximum: the largest allowed value.
        above: values must be larger than this.
        below: values must be smaller than this.
        unit: "bytes" or "seconds" if the command line also reads values such as 512MB or 5m.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    unit: str | None = None

    def violation(self, value: float) -> str | None:
        """Return what is wrong with a number, or None if it lies in the range."""
        if not math.isfinite(value):
            return "give a finite number"
        bounds = (
            ("must be at least", self.minimum, lambda bound: value < bound),
            ("must be at most", self.maximum, lambda bound: value > bound),
            ("must be above", self.above, lambda bound: value <= bound),
            ("must be below", self.below, lambda bound: value >= bound),
        )
        given = [(words, bound, is_outside) for words, bound, is_outside in bounds if bound is not None]
        return next((f"{words} {bound:g}" for words, bound, is_outside in given if is_outside(bound)), None)


@dataclass(frozen=True)
class Option:
    """One declared option.

    Attributes:
        name: the field's name.
        kind: int, float or str.
        choices: the allowed words of a `Literal`, else empty.
        optional: whether None is a value.
        default: the value if none is given.
        limits: its help text and range.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    optional: bool
    default: Any
    limits: Limits

    @property
    def flag(self) -> str:
        """The option's name on the command line, without the hyphens in front."""
        return self.name.replace("_", "-")


def option(default: Any, help: str, **limits: Any) -> Any:
    """Return a dataclass field that carries an option's declaration.

    Args:
        default: the value if none is given.
        help: one line for the user.
        limits: further fields of `Limits`.
    """
    return field(default=default, metadata={"limits": Limits(help, **limits)})


@cache
def declared(owner: Hashable) -> tuple[Option, ...]:
    """Return the options that a dataclass declares, in the order of its fields."""
    assert isinstance(owner, type)
    hints = get_type_hints(owner)
    return tuple(_read(item, hints[item.name]) for item in dataclasses.fields(owner) if "limits" in item.metadata)


def check(values: Any) -> None:
    """Check every option of a dataclass instance.

    Args:
        values: the instance; its class may have an attribute `group`, which is written in front of names.

    Raises:
        UserError: a value is of the wrong kind or out of range; the message names the option and what is allowed.
    """
    group = getattr(values, "group", "")
    for one in declared(cast(Hashable, type(values))):
        value = getattr(values, one.name)
        if reason := violation(one, value):
            name = f"{group}.{one.name}" if group else one.flag
            shown = repr(value) if isinstance(value, str) else value
            raise UserError(f"{name} {shown}: {reason}")


def violation(one: Option, value: Any) -> str | None:
    """Return what is wrong with a value of an option, or None if it is allowed."""
    if value is None:
        return None if one.optional else "a value is needed"
    if one.choices:
        return None if value in one.choices else f"choose one of {', '.join(one.choices)}"
    if one.kind is str:
        return None if isinstance(value, str) else "give a text"
    if one.kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        return "give a whole number"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "give a number"
    return one.limits.violation(value)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return words that suggest the most similar of some names, empty if none is similar."""
    known = list(names)
    # names without their group are compared too: `draws` is near `stage2.draws`
    found = difflib.get_close_matches(name, known, 1, 0.6) or [
        full for full in known if difflib.get_close_matches(name.split(".")[-1], [full.split(".")[-1]], 1, 0.6)
    ]
    return f"; did you mean {found[0]}?" if found else ""


def _read(item: dataclasses.Field[Any], hint: Any) -> Option:
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = [part for part in parts if part is not type(None)]
    choices = get_args(plain[0]) if get_origin(plain[0]) is Literal else ()
    return Option(
        name=item.name,
        kind=str if choices else plain[0],
        choices=choices,
        optional=len(plain) < len(parts),
        default=item.default,
        limits=item.metadata["limits"],
    )
