"""The results of `heads.py`, and the tables that are made of them.

>>> print(format_tables(results))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharpzo_mlx.comparison.methods import registry

METHODS = ("zero-shot", "ncm", "ridge", "gda-alone", "gda", "head-unguarded", "head", "default")
TUNED = ("sharpzo", "sharpzo-gda")


@dataclass(frozen=True)
class Measured:
    """The result of one method on one set; accuracy, calibration errors and opening are 0..1.

    Attributes:
        trained: the set whose images it learned from.
        target: the set that it was tested on.
        shots: training images a class.
        seed: of the draw.
        method: its name in `compare`.
        accuracy: on the test images.
        ece: expected calibration error.
        floor: the error that right probabilities of the same confidences would show on so many images.
        opening: the mean opening of the guard; None without one.
        seconds: of fitting and searching, on encoded images.
    """

    trained: str
    target: str
    shots: int
    seed: int
    method: str
    accuracy: float
    ece: float
    floor: float
    opening: float | None
    seconds: float

    @property
    def draw(self) -> tuple[str, str, int, int]:
        """What the methods that are compared share."""
        return self.trained, self.target, self.shots, self.seed


def format_tables(found: Sequence[Measured]) -> str:
    """Return a table for each pair of training and test set, and tables of means over the pairs."""
    pairs = list(dict.fromkeys((one.trained, one.target) for one in found))
    lines = []
    for pair in pairs:
        own = [one for one in found if (one.trained, one.target) == pair]
        lines += ["", " -> ".join(dict.fromkeys(pair)), "", *format_table(own)]
    for heading, shifted in (("In distribution", False), ("Under shift", True)):
        own = [one for one in found if (one.trained != one.target) == shifted]
        for names in (METHODS, METHODS + TUNED):
            common = select_common(own, names)
            if common and any(one.method == names[-1] for one in own):
                lines += ["", f"{heading}, means over the sets", "", *format_table(common)]
    return "\n".join(lines)


def select_common(found: Sequence[Measured], methods: Sequence[str]) -> list[Measured]:
    """Return the results of some methods, on the draws that all of them have."""
    draws = [{one.draw for one in found if one.method == method} for method in methods]
    common = set.intersection(*draws)
    return [one for one in found if one.draw in common and one.method in methods]


def format_table(found: Sequence[Measured]) -> list[str]:
    """Return a table of methods by shots, where each pair of sets is the mean of its draws; with one pair, ± sd.

    "worst" is the lowest difference to zero-shot over all draws, in points. The last columns are means over all shots.
    """
    shots = sorted({one.shots for one in found})
    zero_shot = {one.draw: one.accuracy for one in found if one.method == "zero-shot"}
    columns = [*map(str, shots), "worst", "ECE", "its floor", "guard open", "seconds"]
    lines = [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method in (name for name in METHODS + TUNED if any(one.method == name for one in found)):
        rows = [one for one in found if one.method == method]
        cells = [format_accuracy([one for one in rows if one.shots == count]) for count in shots]
        gains = [one.accuracy - zero_shot[one.draw] for one in rows if one.draw in zero_shot]
        cells += [f"{100 * min(gains):+.1f}" if gains else "-"]
        cells += [f"{100 * mean_over_pairs(rows, name):.1f}" for name in ("ece", "floor")]
        cells += ["-" if rows[0].opening is None else f"{100 * mean_over_pairs(rows, 'opening'):.0f} %"]
        lines.append(
            f"| {registry.method(method).title} | {' | '.join(cells)} | {np.mean([r.seconds for r in rows]):.1f} |"
        )
    return lines


def format_accuracy(rows: Sequence[Measured]) -> str:
    """Return the mean accuracy in per cent, with the standard deviation over the draws if they are of one pair."""
    if not rows:
        return "-"
    mean = f"{100 * mean_over_pairs(rows, 'accuracy'):.1f}"
    alone = len({(one.trained, one.target) for one in rows}) == 1 and len(rows) > 1
    return f"{mean} ± {100 * np.std([one.accuracy for one in rows], ddof=1):.1f}" if alone else mean


def mean_over_pairs(rows: Sequence[Measured], name: str) -> float:
    """Return the mean over pairs of sets of the mean of each pair's figures."""
    pairs = {(one.trained, one.target) for one in rows}
    own = [[getattr(one, name) for one in rows if (one.trained, one.target) == pair] for pair in pairs]
    return float(np.mean([np.mean(values) for values in own]))
