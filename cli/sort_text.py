"""What `sort` prints: a plan that fits a small terminal, what was done, and what was undone.

>>> print(describe_plan(plan, plan.survey()))  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sharpzo_mlx.cli import wording
from sharpzo_mlx.datasets.scan import UNSORTED
from sharpzo_mlx.sorting.items import DONE

if TYPE_CHECKING:
    from sharpzo_mlx.sorting.items import Order, Sorted
    from sharpzo_mlx.sorting.plan import SortPlan
    from sharpzo_mlx.sorting.survey import Survey
    from sharpzo_mlx.sorting.undo import Undone

MOST_CLASSES = 6  # rows of the table
PLACE = 36  # columns of a path
RENAMED_MOST = 1
HOW = {
    "copy": "copy", "move": "move", "link": "link (hard links)", "symlink": "link (symbolic links)", "tag": "tag",
}  # fmt: skip


def describe_plan(plan: SortPlan, found: Survey) -> str:
    """Return a plan for a terminal of 24 lines and 80 columns, where folder names are not too long."""
    order, images = plan.order, len(plan.order.items)
    into = "XMP sidecars" if order.mode == "tag" else f"{order.into}/"
    verb = f"{HOW[order.mode]} {images - found.there - found.unlabelled - len(found.failures)} of {images} images"
    lines = [f"{verb}: {order.folder}/ -> {into}", *_class_table(found), *_remarks(plan, found)]
    if found.examples:
        lines += [
            "for example",
            *(f"  {wording.shorten(one, PLACE)} -> {wording.shorten(other, PLACE)}" for one, other in found.examples),
        ]
    lines.append("nothing was touched; the same command with --apply does it")
    return "\n".join(wording.escape(line) for line in lines)


def _class_table(found: Survey) -> list[str]:
    """Return the largest classes, how many others there are, and at the end the images without a class."""
    classes = {name: count for name, count in found.classes.items() if name != UNSORTED}
    ranked = sorted(classes.items(), key=lambda one: (-one[1], one[0]))
    most = MOST_CLASSES - (UNSORTED in found.classes)
    shown = ranked if len(ranked) <= most else ranked[: most - 1]
    rows = [(wording.shorten(name, 60), str(count)) for name, count in shown]
    if rest := ranked[len(shown) :]:
        rows.append((f"{len(rest)} more", str(sum(count for _, count in rest))))
    if UNSORTED in found.classes:
        rows.append((UNSORTED, str(found.classes[UNSORTED])))
    return ["  " + line for line in wording.aligned([("class", "images"), *rows]).splitlines()]


def _remarks(plan: SortPlan, found: Survey) -> list[str]:
    renamed = list(found.renamed.items())
    lines = [
        f"the class {wording.shorten(label, 26)} goes to {wording.shorten(name, 26)}/"
        for label, name in renamed[:RENAMED_MOST]
    ]
    if len(renamed) > RENAMED_MOST:
        lines.append(f"{len(renamed) - RENAMED_MOST} more classes get names that every disk can hold")
    counts = (
        (found.there, "passed over, there already"),
        (found.numbered, "numbered, another file has the name"),
        (found.sidecars, "sidecars that travel along"),
        (found.unlabelled, "not tagged, none of the classes"),
        (len(plan.unread) + len(found.failures), "left alone, see the notes"),
    )
    lines += [f"{words}: {count}" for count, words in counts if count]
    if plan.order.in_place and plan.order.mode != "move" and any("/" in item.path for item in plan.order.items):
        lines.append("the images stay in their old folders too; --move takes them out")
    return lines


def describe_result(plan: SortPlan, state: Sorted) -> str:
    """Return what was done, and how to undo it."""
    numbered = f" ({state.numbered} numbered)" if state.numbered else ""
    parts = [f"{state.done} of {state.total} images {DONE[plan.order.mode]}{numbered}"]
    if state.sidecars:
        parts.append(f"{state.sidecars} sidecar{'s' if state.sidecars > 1 else ''}")
    if state.there:
        parts.append(f"{state.there} there already")
    if left := len(state.failures) + len(plan.unread):
        parts.append("1 left as it is" if left == 1 else f"{left} left as they are")
    lines = [f"{_where(plan.order)}: {', '.join(parts)}"]
    if state.journal:
        lines.append(f"undo: sharpzo-mlx sort --undo {shlex.quote(state.journal)}")
    return "\n".join(wording.escape(line) for line in lines)


def describe_undone(journal: Path, result: Undone) -> str:
    """Return what an undoing did."""
    if result.before:
        return wording.escape(f"{journal}: was undone before ({result.before}); nothing was touched")
    kept = f", {len(result.kept)} kept" if result.kept else ""
    return wording.escape(f"{journal}: {result.files} files put back or removed{kept}")


def _where(order: Order) -> str:
    return str(order.folder if order.mode == "tag" else order.into)
