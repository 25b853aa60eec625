"""The base of dataclasses that are kept as JSON: plain values out, and every type and range checked on the way in.

A record declares its fields once, as a frozen dataclass of numbers, texts, tuples, dictionaries and other records. The
types of this module are numbers and texts with limits.

>>> @dataclasses.dataclass(frozen=True)
... class Point(JsonRecord):
...     x: Number
>>> Point.from_json(Point(1.5).to_json())
Point(x=1.5)
>>> Point.from_json({"x": "far"})
Traceback (most recent call last):
ValueError: x is not a number
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from sharpzo_mlx.errors import one_line

_LARGEST = 1e15  # of a count or an amount; every whole number up to it is exact

# 1.000001: a mean of float32 may be a rounding above 1
Share: TypeAlias = Annotated[float, Meta(ge=-0.000001, le=1.000001)]  # an accuracy or another part of a whole
Change: TypeAlias = Annotated[float, Meta(ge=-1.000001, le=1.000001)]  # a difference of two shares
Number: TypeAlias = Annotated[float, Meta(ge=-1e30, le=1e30)]
Amount: TypeAlias = Annotated[float, Meta(ge=0.0, le=_LARGEST)]  # a time, a size
Count: TypeAlias = Annotated[int, Meta(ge=0, le=int(_LARGEST))]
# half a pair of surrogates is in no file name, but for the 128 that stand for bytes that are not UTF-8
Text: TypeAlias = Annotated[str, Meta(max_length=10_000, pattern="\\A[^\ud800-\udc7f\udd00-\udfff]*\\Z")]
PathText: TypeAlias = Annotated[str, Meta(max_length=40_000, pattern="\\A[^\0\ud800-\udc7f\udd00-\udfff]*\\Z")]

R = TypeVar("R")
_KINDS = {
    "float": "a number", "int": "a whole number", "str": "a text", "bool": "true or false", "object": "an object",
    "array": "a list", "null": "null",
}  # fmt: skip
# msgspec's messages, and what is wrong in the words of a field
_MESSAGES = (
    (re.compile(r"Object missing required field `(?P<field>[^`]*)`"), "is missing"),
    (
        re.compile(r"Expected `array` of length (?P<wanted>\d+), got (?P<found>\d+)"),
        "has {found} entries, not {wanted}",
    ),
    (re.compile(r"Expected `array` of at (least|most) length (?P<wanted>\d+)"), "has too few or too many entries"),
    (re.compile(r"Expected `str` of length <= (?P<wanted>\d+)"), "is longer than {wanted} characters"),
    (re.compile(r"Expected `str` matching"), "has characters that no path or name has"),
    (re.compile(r"Expected `\w+` (?P<sign>[<>]=) (?P<bound>\S+)"), "is not {sign} {bound}"),
    (re.compile(r"Expected `(?P<kind>\w+)"), "is not {kind}"),
    (re.compile(r"Invalid enum value (?P<value>.*)", re.DOTALL), "is {value}, which is none of its values"),
    (re.compile(r"Number out of range"), "is too large"),
)


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
            ValueError: a field is missing, of another type or out of its range; the message names it.
        """
        return checked(cls, content, name)


def checked(kind: type[R], content: object, name: str = "") -> R:
    """Return plain values as a type, such as a dataclass or `tuple[Text, ...]`.

    Args:
        kind: the type.
        content: what JSON gave.
        name: its place in its file, for messages; empty for the whole file.

    Raises:
        ValueError: the content is of another type or out of range; the message names the field.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_explain(str(error), name)) from None
    except (UnicodeError, OverflowError) as error:
        raise ValueError(f"{name or 'the content'} cannot be read ({type(error).__name__})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _explain(message: str, name: str) -> str:
    """Return msgspec's message as "field is ..."."""
    problem, _, place = message.rpartition(" - at `") if " - at `" in message else (message, "", "")
    inside = place.rpartition("`")[0].removeprefix("$").removeprefix("key` in `$")
    path = f"{name}{inside}" if name else inside.removeprefix(".")
    for pattern, words in _MESSAGES:
        if found := pattern.match(problem):
            parts = {key: one_line(value) for key, value in found.groupdict().items()}
            path = ".".join(filter(None, (path, parts.pop("field", ""))))
            parts["kind"] = _KINDS.get(parts.get("kind", ""), "of its kind")
            parts["sign"] = "at most" if parts.get("sign") == "<=" else "at least"
            return f"{path or 'the content'} {words.format(**parts)}"
    return f"{path or 'the content'}: {problem}"  # what a record itself refuses
