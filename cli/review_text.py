"""Write suggestions and checked labels for a terminal of 80 columns, and as records for a script.

>>> print(format_suggestions(suggestions))  # doctest: +SKIP
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpzo_mlx.cli import wording

if TYPE_CHECKING:
    from sharpzo_mlx.review.label_check import Duplicate, LabelCheck, Suspect
    from sharpzo_mlx.review.suggestions import Suggestions

NAME, IMAGE = 15, 27  # columns of a class and of an image
PAIR = 29  # columns of each image of a pair
MOST_PAIRS = 20


def format_suggestions(found: Suggestions) -> str:
    """Return a table of the suggested images, the first first."""
    rows = [("image", "guess", "probability", "uncertain", "")]
    for rank, item in enumerate(found.items, start=1):
        place = f"{_numbered(rank, len(found.items))}{_short(item.path, found.folder, 32)}"
        remark = "foreign" if item.foreign else ""
        rows.append(
            (
                place,
                wording.shorten(item.label, 18),
                wording.percent(item.probability),
                f"{item.uncertainty:.2f}",
                remark,
            )
        )
    return wording.aligned(rows)


def format_check(found: LabelCheck, count: int) -> str:
    """Return what a check found: at most `count` labels that look wrong, and pairs of one picture."""
    shown = found.suspects[:count]
    lines = [
        f"{found.images} images; left out in turn, {wording.percent(found.agreement)} are called by their label",
        f"labels that look wrong: {_counted(len(shown), len(found.suspects))}",
    ]
    if shown:
        rows: list[tuple[str, ...]] = [("image", "label", "", "rather", "")]
        for rank, one in enumerate(shown, start=1):
            rows += _suspect_rows(_numbered(rank, len(shown)), one, found.folder)
        lines += ["", wording.aligned(rows)]
    return "\n".join([*lines, "", *_pair_lines(found)])


def _counted(shown: int, total: int) -> str:
    first = "the first" if shown == 1 else f"the first {shown}"
    return f"{total}" if shown == total else f"{total}, {first} below"


def _numbered(rank: int, last: int) -> str:
    """Return the number of a row of so many, in columns that are the same for all."""
    return f"{rank:>{len(str(last))}}  "


def _suspect_rows(number: str, one: Suspect, folder: Path) -> list[tuple[str, ...]]:
    place = f"{number}{_short(one.path, folder, IMAGE)}"
    given, rather = wording.percent(one.given_probability), wording.percent(one.suggested_probability)
    row = (place, wording.shorten(one.given, NAME), given, wording.shorten(one.suggested, NAME), rather)
    blank = " " * len(number)
    like = [(f"{blank}like {_short(near.path, folder, IMAGE - 5)}", "", "", "", "") for near in one.neighbours[:1]]
    return [row, *like]


def _pair_lines(found: LabelCheck) -> list[str]:
    pairs = [pair for pair in found.duplicates if pair.matters]
    inside = len(found.duplicates) - len(pairs)
    shown = pairs[:MOST_PAIRS]
    lines = [f"the same picture across splits or under two labels: {_counted(len(shown), len(pairs))}"]
    if shown:
        rows = [("image", "the same as", "")]
        for pair in shown:
            words = "same file" if pair.same_content else "near-copy"
            rows.append((_short(pair.path, found.folder, PAIR), _short(pair.other, found.folder, PAIR), words))
        lines += ["", wording.aligned(rows), ""]
    return [*lines, f"twice within one class and split: {inside}"]


def _short(path: Path, folder: Path, width: int) -> str:
    """Return a path below a folder in at most so many columns."""
    return wording.shorten(str(path.relative_to(folder) if path.is_relative_to(folder) else path), width)


def record_suggestions(found: Suggestions) -> dict[str, Any]:
    """Return the suggestions for a script."""
    items = [
        {
            "path": str(item.path),
            "labels": [{"label": label, "probability": share} for label, share in item.choices],
            "uncertainty": item.uncertainty,
            "foreign": item.foreign,
        }
        for item in found.items
    ]
    return {"folder": os.path.abspath(found.folder), "images": found.images, "known": found.known, "suggestions": items}


def record_check(found: LabelCheck) -> dict[str, Any]:
    """Return a check for a script."""
    return {
        "folder": os.path.abspath(found.folder),
        "images": found.images,
        "agreement": found.agreement,
        "suspects": [_record_suspect(rank, one) for rank, one in enumerate(found.suspects, start=1)],
        "duplicates": [_record_pair(pair) for pair in found.duplicates],
    }


def _record_suspect(rank: int, one: Suspect) -> dict[str, Any]:
    return {
        "rank": rank,
        "path": str(one.path),
        "split": one.part.name or None,
        "label": one.given,
        "label_probability": one.given_probability,
        "suggested": one.suggested,
        "suggested_probability": one.suggested_probability,
        "neighbours": [{"path": str(near.path), "similarity": near.similarity} for near in one.neighbours],
    }


def _record_pair(pair: Duplicate) -> dict[str, Any]:
    return {
        "path": str(pair.path),
        "other": str(pair.other),
        "split": pair.split or None,
        "other_split": pair.other_split or None,
        "label": pair.label,
        "other_label": pair.other_label,
        "same_content": pair.same_content,
        "similarity": pair.similarity,
    }
