"""How numbers and tables read in everything that is printed or written: shares, points, durations, sizes, columns.

>>> percent(0.5625), duration(75), amount(2_075_000_000)
('56.2 %', '1 min 15 s', '2.08 GB')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal
from unicodedata import category, east_asian_width

from sharpzo_mlx.errors import escape


def percent(share: float | None) -> str:
    """Return an accuracy of 0..1 in per cent with one decimal, or a dash for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def points(before: float | None, after: float | None) -> str:
    """Return the difference of two accuracies in points with its sign, or a dash if one of them is None."""
    return "-" if before is None or after is None else f"{100 * (after - before):+.1f}"


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 0.4 s, 48 s, 1 min 15 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def amount(size: float) -> str:
    """Return bytes in decimal units with three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of words as a plain table: the first column flush left, the others flush right.

    Args:
        rows: equally many cells in each; the first row is the heading. Control characters are escaped.
    """
    table = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(columns, column)) for column in zip(*table, strict=True)]
    return "\n".join(_align(row, widths) for row in table)


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    blanks = [" " * (width - columns(cell)) for cell, width in zip(cells, widths, strict=True)]
    others = (blank + cell for cell, blank in zip(cells[1:], blanks[1:], strict=True))
    return "  ".join([cells[0] + blanks[0], *others]).rstrip()


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a wide character, none for an accent or a mark."""
    return sum(2 if east_asian_width(one) in "WF" else category(one) not in ("Mn", "Me", "Cf") for one in text)


def cut(text: str, most: int, *, keep: Literal["beginning", "end"] = "end") -> str:
    """Return a text in at most so many columns; of a longer one the end or the beginning, with an ellipsis.

    Args:
        text: control characters in it are escaped.
        most: columns, at least one.
        keep: which part stays; of a path the end says most.
    """
    text = escape(text)
    if columns(text) <= most:
        return text
    while columns(text) > most - 1:
        text = text[1:] if keep == "end" else text[:-1]
    return f"…{text}" if keep == "end" else f"{text}…"
