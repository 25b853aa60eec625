"""Tables of labels.py: what lists of doubtful labels, suggestions and near-copies are worth.

>>> crossing([14, 28, 42], [0.5, 0.6, 0.7], 0.65)
35.0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Line = dict[str, Any]
GOAL = 0.95  # of the full accuracy
LOOKS = (1, 2, 4, 8)  # rounds whose accuracies are shown


def crossing(counts: Sequence[int], accuracies: Sequence[float], goal: float) -> float | None:
    """Return how many labels a curve needs to reach a goal, on straight lines between its points; None: it does not."""
    for place, accuracy in enumerate(accuracies):
        if accuracy >= goal:
            if not place:
                return float(counts[0])
            before, step = accuracies[place - 1], counts[place] - counts[place - 1]
            return float(counts[place - 1] + step * (goal - before) / (accuracy - before))
    return None


def format_tables(lines: Sequence[Line]) -> str:
    """Return all tables in Markdown."""
    kinds = {kind: [line for line in lines if line["kind"] == kind] for kind in ("check", "suggest", "copies")}
    parts = [_check_table(kinds["check"], rate) for rate in sorted({line["rate"] for line in kinds["check"]})]
    return "\n\n".join([*parts, _suggest_table(kinds["suggest"]), _copies_table(kinds["copies"])])


def _check_table(lines: Sequence[Line], rate: float) -> str:
    rows = [
        f"{100 * rate:g} % of the labels changed:",
        "",
        "| set | list | listed | precision | recall | suggestion right |",
    ]
    rows.append("|---|---|---|---|---|---|")
    own = [line for line in lines if line["rate"] == rate]
    for name in dict.fromkeys(line["set"] for line in own):
        runs = [line for line in own if line["set"] == name]
        agrees = f"{name} ({100 * np.mean([line['agrees'] for line in runs]):.0f} % agree)"
        for one in runs[0]["lists"]:
            figures = 100 * np.nanmean([line["lists"][one] for line in runs], axis=0)
            rows.append(
                f"| {agrees} | {one} | {figures[0]:.1f} | {figures[1]:.0f} | {figures[2]:.0f} | {figures[3]:.0f} |"
            )
            agrees = ""
    return "\n".join(rows)


def _suggest_table(lines: Sequence[Line]) -> str:
    rows = ["| set | rule | labels for 95 % | " + " | ".join(f"batch {n}" for n in LOOKS) + " | full (labels) |"]
    rows.append("|---" * (len(LOOKS) + 4) + "|")
    for name in dict.fromkeys(line["set"] for line in lines):
        for rule in dict.fromkeys(line["rule"] for line in lines if line["set"] == name):
            runs = [line for line in lines if line["set"] == name and line["rule"] == rule]
            curve, full = (
                np.mean([line["accuracies"] for line in runs], axis=0),
                np.mean([line["full"] for line in runs]),
            )
            counts = runs[0]["counts"]
            needed = crossing(counts, curve.tolist(), GOAL * float(full))
            cells = [f"{100 * curve[n]:.1f}" if n < len(curve) else "-" for n in LOOKS]
            shown = f"more than {counts[-1]}" if needed is None else f"{needed:.0f}"
            rows.append(f"| {name} | {rule} | {shown} | {' | '.join(cells)} | {100 * full:.1f} ({runs[0]['all']}) |")
    return "\n".join(rows)


def _copies_table(lines: Sequence[Line]) -> str:
    sets = list(dict.fromkeys(line["set"] for line in lines))
    rows = [f"| copy | {' | '.join(sets)} |", "|---" * (len(sets) + 1) + "|"]
    for copy in dict.fromkeys(line["copy"] for line in lines):
        found = {line["set"]: line for line in lines if line["copy"] == copy}
        cells = [_copy_cell(found[name]) if name in found else "-" for name in sets]
        rows.append(f"| {'pairs among the pictures' if copy == 'none' else copy} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _copy_cell(line: Line) -> str:
    return f"{line['pairs']} of {line['images']}" if "pairs" in line else f"{100 * line['found']:.0f} %"
