"""Which candidate is kept: the best on validation images, accuracies within a standard error of the best being ties.

Four validation images a class tell accuracies apart by chance more often than not, so that accuracies which lie
within `slack` standard errors of the highest count as equal and the loss decides; slack 0 is the plain rule, best
accuracy, ties by loss (SharpZO, arXiv 2506.20990, section 5). A candidate is held against the one that is kept when it
comes, and what is not kept is forgotten: one that lost by its loss does not come back when the one it lost to falls
behind by its accuracy. Every method of a comparison chooses by this rule.

>>> best = Selection(slack=0.0)
>>> best.consider(Score(0.5, 1.0, 8)), best.consider(Score(0.4, 0.9, 8))
(True, False)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sharpzo_mlx.objective.objective import Score

ROUNDING = 1e-9  # accuracies are quotients of whole numbers


class Selection:
    """The best validation score so far.

    Args:
        slack: standard errors that count as a tie.
    """

    def __init__(self, slack: float) -> None:
        self.slack = slack
        self._best: Score | None = None
        self._top = 0.0  # the highest accuracy so far

    @property
    def empty(self) -> bool:
        """Whether nothing has been considered yet."""
        return self._best is None

    @property
    def best(self) -> Score:
        """The score of the candidate that is kept."""
        assert self._best is not None, "nothing has been considered yet"
        return self._best

    def consider(self, score: Score) -> bool:
        """Whether this candidate is to be kept in place of the one before; a loss that is not finite never is.

        The first candidate is kept whatever its loss is, for there is no other.
        """
        finite = math.isfinite(score.loss)
        if self._best is None:
            self._best = score if finite else Score(score.accuracy, math.inf, score.images)
            self._top = score.accuracy
            return True
        if not finite:
            return False
        self._top = max(self._top, score.accuracy)
        if better := self._is_better(score, self._best):
            self._best = score
        return better

    def _is_better(self, score: Score, best: Score) -> bool:
        floor = self._top - self.slack * _standard_error(self._top, score.images) - ROUNDING
        if score.accuracy < floor or best.accuracy < floor:
            return score.accuracy >= floor
        return score.loss < best.loss

    def facts(self) -> dict[str, Any]:
        """The state as plain values."""
        return {"best": dataclasses.asdict(self._best) if self._best else None, "top": self._top}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take on the state that `facts` gave."""
        self._best = Score(**facts["best"]) if facts["best"] else None
        self._top = facts["top"]


def _standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy read on so many images; pulled towards the middle, so that 0 and 1 have one too."""
    share = (accuracy * images + 1) / (images + 2)
    return math.sqrt(share * (1 - share) / images) if images else 0.0
