"""How numbers and tables read in everything that is printed or written: shares, points, durations, sizes, columns.

>>> percent(0.5625), duration(75), amount(2_075_000_000)
('56.2 %', '1 min 15 s', '2.08 GB')
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from sharpzo_mlx.errors import escape

GAP = "  "  # between columns
SHORTEST = 16  # columns that are left of a long name


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


def aligned(rows: Iterable[Sequence[str]], width: int | None = None, *, whole_names: bool = False) -> str:
    """Return rows of words as a plain table: the first column flush left, the others flush right.

    Args:
        rows: equally many cells in each; the first row is the heading. Control characters are escaped.
        width: columns of the screen. A wider table is cut between its columns into several, one below the other, each
            with the first column; of a long name in that one the end is kept. None: as wide as it is.
        whole_names: keep long names whole, so that only what stands beside them keeps within the width.
    """
    table = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(columns_of, column)) for column in zip(*table, strict=True)]
    if width is None or _total(widths) <= width:
        return _join(table, widths)
    name = min(widths[0], max(SHORTEST, 3 * width // 10))
    if whole_names:
        name, width = widths[0], width + widths[0] - name
    table = [[shorten(row[0], name), *row[1:]] for row in table]
    blocks: list[list[int]] = [[]]
    for place, needed in enumerate(widths[1:], start=1):
        if blocks[-1] and _total([name, *(widths[one] for one in blocks[-1]), needed]) > width:
            blocks.append([])
        blocks[-1].append(place)
    parts = [([[row[place] for place in (0, *block)] for row in table], block) for block in blocks]
    return "\n\n".join(_join(part, [name, *(widths[place] for place in block)]) for part, block in parts)


def columns_of(text: str) -> int:
    """Return how many columns a text takes on a terminal: two for each wide character, none for a combining one."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def shorten(name: str, width: int, *, keep: Literal["beginning", "end"] = "end") -> str:
    """Return a name as at most so many columns, with an ellipsis in place of what is left out of a longer one.

    Args:
        name: control characters in it are escaped.
        width: columns, at least one.
        keep: which part stays; of a path the end says most.
    """
    name = escape(name)
    if columns_of(name) <= width:
        return name
    while columns_of(name) > width - 1:
        name = name[1:] if keep == "end" else name[:-1]
    return f"…{name}" if keep == "end" else f"{name}…"


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _join(table: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    return "\n".join(_align(row, widths) for row in table)


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    blanks = [" " * (width - columns_of(cell)) for cell, width in zip(cells, widths, strict=True)]
    first, *others = (
        blank + cell if place else cell + blank for place, (cell, blank) in enumerate(zip(cells, blanks, strict=True))
    )
    return GAP.join([first, *others]).rstrip()
