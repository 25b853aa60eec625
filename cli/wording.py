"""How results read in this program's output: the formats of `report.formatting`, the lines about a head, and JSON.

>>> percent(0.5625), duration(75), amount(2_075_000_000)
('56.2 %', '1 min 15 s', '2.08 GB')
"""

from __future__ import annotations

import codecs
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from sharpzo_mlx.errors import escape
from sharpzo_mlx.report import formatting
from sharpzo_mlx.report.formatting import amount, columns_of, duration, percent, points, shorten
from sharpzo_mlx.report.head_words import describe_head, describe_words

if TYPE_CHECKING:
    from sharpzo_mlx.runs.record import HeadResult

__all__ = ["aligned", "aligned_whole", "amount", "as_json", "columns_of", "duration", "echo_json", "escape", "fitted",
           "head", "on_screen", "percent", "points", "screen_width", "shorten"]  # fmt: skip

LEAST = 4  # columns that are left of a name, however narrow the screen


def screen_width() -> int:
    """Return the columns of the terminal on stdout; 80 where it is none, or does not tell."""
    return shutil.get_terminal_size(fallback=(80, 24)).columns


def on_screen() -> bool:
    """Return whether a person reads stdout in a window of known width: on a terminal, or with COLUMNS set."""
    return "COLUMNS" in os.environ or sys.stdout.isatty()


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Return a table as `formatting.aligned` does, within the columns of the screen; in a pipe names stay whole."""
    return formatting.aligned(rows, screen_width(), whole_names=not on_screen())


def aligned_whole(rows: Iterable[Sequence[str]]) -> str:
    """Return a table as wide as it is."""
    return formatting.aligned(rows)


def fitted(start: str, names: Sequence[str], ends: Sequence[str], *, keep: Literal["beginning", "end"] = "end") -> str:
    """Return one line of names with what follows each, such as `worst: cat 12.0 %, dog 15.0 %`.

    On a screen the longest names are cut so far that the line fits, but not below four columns; in a pipe they stay
    whole.

    Args:
        start: how the line begins.
        names: control characters in them are escaped.
        ends: what follows each name.
        keep: which part of a name stays.
    """
    names, ends = [escape(name) for name in names], [escape(end) for end in ends]
    if on_screen():
        rest = screen_width() - columns_of(start) - columns_of("".join(ends)) - len(", ") * (len(names) - 1)
        names = [shorten(name, width, keep=keep) for name, width in zip(names, _share(rest, names), strict=True)]
    return start + ", ".join(name + end for name, end in zip(names, ends, strict=True))


def _share(columns: int, names: Sequence[str]) -> list[int]:
    """Return the columns that each name gets of some: short ones what they need, the others as much as each other."""
    widths: dict[int, int] = {}
    for done, place in enumerate(sorted(range(len(names)), key=lambda one: columns_of(names[one]))):
        widths[place] = min(
            columns_of(names[place]), max(LEAST, (columns - sum(widths.values())) // (len(names) - done))
        )
    return [widths[place] for place in range(len(names))]


def head(result: HeadResult) -> str:
    """Return two lines that say what the tuned classifier is made of, and whether words were tuned."""
    return f"head: {describe_head(result)}\nwords: {describe_words(result)}"


def echo_json(record: Mapping[str, Any]) -> None:
    """Print one object on stdout, see `as_json`."""
    click.echo(as_json(record))


def as_json(record: Mapping[str, Any]) -> str:
    """Return one object in a line for stdout; numbers that are not finite become null, as the JSON standard asks.

    What stdout's encoding may lack, and bytes of file names that are not UTF-8, are written as JSON's own escapes.
    """
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    text = json.dumps(_finite(record), ensure_ascii=encoding != "utf-8")
    return text.encode("utf-8", "backslashreplace").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
