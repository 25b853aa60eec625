"""How numbers and results read in this program's output: shares, durations, amounts of memory, JSON.

One place, so that every command says the same thing in the same words.

>>> percent(0.5625), duration(75), amount(2_075_000_000)
('56.2 %', '1 min 15 s', '2.08 GB')
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sharpzo_mlx.prompts.prompt import PromptHead


def percent(share: float | None) -> str:
    """An accuracy of 0..1 in per cent with one decimal; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def points(before: float | None, after: float | None) -> str:
    """A difference of two accuracies in points, with its sign; a dash where there is none."""
    return "-" if before is None or after is None else f"{100 * (after - before):+.1f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 48 s, 1 min 15 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def amount(size: float) -> str:
    """Bytes in decimal units with three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def head(joined: PromptHead) -> str:
    """What the tuned words were joined with, and what each counts for."""
    return (
        f"tuned: the words' logits x {joined.text_share:.3g} + those of {joined.kind} on the training images "
        f"x {joined.image_share:.3g}, by validation loss"
    )


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows of words as a plain table: the first column to the left, the others to the right.

    Args:
        rows: equally many cells in each; the first row is the heading.
    """
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(_row(row, widths) for row in table)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()


def echo_json(record: Mapping[str, Any]) -> None:
    """Print one object on stdout; what is not finite becomes null, for readers that keep to the standard."""
    click.echo(json.dumps(_finite(record), ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
