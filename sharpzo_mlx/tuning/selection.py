"""Which candidate is kept: the best on validation images, accuracies within a standard error of the best being ties.

Four validation images a class often tell accuracies apart by chance. So accuracies within `slack` standard errors of
the highest count as equal, and the loss decides; slack 0 is the plain rule, best accuracy, ties by loss (SharpZO, arXiv
2506.20990, section 5). A candidate below the first one, which is zero-shot, is never kept. A candidate is compared with
the one that is kept when it comes, and a candidate that is not kept is forgotten. Every method of a comparison chooses
by this rule.

>>> best = Selection(slack=0.0)
>>> best.consider(Score(0.5, 1.0, 8)), best.consider(Score(0.4, 0.9, 8))
(True, False)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.runs.json_record import Count, JsonRecord, Number, Share

ROUNDING = 1e-9  # accuracies are quotients of whole numbers


@dataclass(frozen=True)
class SavedScore(JsonRecord):
    """A score as a checkpoint holds it."""

    accuracy: Share
    loss: Number | None
    images: Count


@dataclass(frozen=True)
class SavedSelection(JsonRecord):
    """A selection as a checkpoint holds it."""

    best: SavedScore | None
    top: Share
    first: Share


@dataclass(frozen=True)
class SelectionState:
    """The kept candidate's score, None before the first, the highest accuracy so far and that of the first."""

    best: Score | None = None
    top: float = 0.0
    first: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain values; a loss that is not finite becomes None."""
        best = self.best
        saved = SavedScore(best.accuracy, _finite(best.loss), best.images) if best else None
        return SavedSelection(saved, self.top, self.first).to_json()

    @classmethod
    def from_json(cls, content: object, name: str = "") -> SelectionState:
        """Return the state that `to_json` wrote; ValueError names a field that is damaged, below `name`."""
        saved = SavedSelection.from_json(content, name)
        best = saved.best
        if best is None:
            return cls(None, saved.top, saved.first)
        loss = math.inf if best.loss is None else best.loss
        return cls(Score(best.accuracy, loss, best.images), saved.top, saved.first)


class Selection:
    """The best validation score so far.

    Args:
        slack: standard errors that count as a tie.
    """

    def __init__(self, slack: float) -> None:
        self.slack = slack
        self._best: Score | None = None
        self._top = 0.0  # the highest accuracy so far
        self._first = 0.0  # the accuracy of the first candidate

    @property
    def empty(self) -> bool:
        """Whether no candidate has been considered yet."""
        return self._best is None

    @property
    def best(self) -> Score:
        """The score of the candidate that is kept."""
        assert self._best is not None, "nothing has been considered yet"
        return self._best

    def consider(self, score: Score) -> bool:
        """Return whether this candidate is to be kept in place of the one before.

        The first candidate is kept whatever its loss is; later, a loss that is not finite is never kept.
        """
        finite = math.isfinite(score.loss)
        if self._best is None:
            self._best = score if finite else Score(score.accuracy, math.inf, score.images)
            self._top = self._first = score.accuracy
            return True
        if not finite or score.accuracy < self._first - ROUNDING:
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

    def state(self) -> SelectionState:
        """Return the state, for a checkpoint."""
        return SelectionState(self._best, self._top, self._first)

    def restore(self, state: SelectionState) -> None:
        """Take on a state."""
        self._best, self._top, self._first = state.best, state.top, state.first


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy over so many images; pulled towards the middle, so that 0 and 1 have one too."""
    share = (accuracy * images + 1) / (images + 2)
    return math.sqrt(share * (1 - share) / images) if images else 0.0
