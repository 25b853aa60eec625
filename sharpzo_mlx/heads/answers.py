"""Answers at stated rates: "none of them" for images of another kind, and sets of labels instead of one.

Both thresholds are order statistics of M left-out labelled images, as in split conformal prediction (Vovk, Gammerman
and Shafer, "Algorithmic Learning in a Random World", 2005; Angelopoulos and Bates, arXiv 2107.07511):

    none of them    d(f) > the ceil((1 - r) (M + 1))-th smallest left-out distance
    set of labels   {k : p_k(f) >= the floor((1 - c) (M + 1))-th smallest probability of the own class}

A new image that is exchangeable with the left-out ones is turned away with probability r at most, and its own class is
in the set with probability c at least, whatever the distributions are. Here each left-out image is judged by a head of
all others, instead of one head that saw none of them (the jackknife in place of a split), and the shares were chosen on
the same images: the rates hold nearly, not strictly. Images of another kind are not exchangeable: for them neither rate
holds. Few images allow few statements: if M < 1/r - 1 no image is turned away, and if M < 1/(1 - c) - 1 all labels are
in each set.

>>> distance_limit(np.arange(1.0, 20.0), 0.05), distance_limit(np.arange(1.0, 20.0), 0.04)
(19.0, inf)
>>> score_limit(np.arange(1.0, 20.0) / 20, 0.9), score_limit(np.arange(1.0, 20.0) / 20, 0.96)
(0.1, 0.0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.prompts.prompt import Prompt

REJECTION, COVERAGE = 0.05, 0.95  # the rates that `evaluate` states if none are given


def distance_limit(distances: npt.NDArray[np.floating], rejection: float) -> float:
    """Return the distance above which an image is none of the classes.

    Args:
        distances: of M left-out images, rising.
        rejection: r, the stated rate of wrong rejections, between 0 and 1.

    Returns:
        One of the distances; infinity where M images are too few for the rate.
    """
    place = math.ceil((1 - _exact(rejection)) * (len(distances) + 1))
    return float(distances[place - 1]) if place <= len(distances) else math.inf


def score_limit(scores: npt.NDArray[np.floating], coverage: float) -> float:
    """Return the least probability of a label in a set.

    Args:
        scores: probabilities that M left-out images got for their own class, rising.
        coverage: c, the stated share of images whose own class is in their set, between 0 and 1.

    Returns:
        One of the scores; 0, which admits every label, where M images are too few for the share.
    """
    place = math.floor((1 - _exact(coverage)) * (len(scores) + 1))
    return float(scores[place - 1]) if place >= 1 else 0.0


def choose_sets(probabilities: npt.NDArray[np.floating], least: float) -> npt.NDArray[np.bool_]:
    """Return which labels are in the set of each image: those of `least` probability, and always the most probable one.

    Args:
        probabilities: [N, K].
        least: what `score_limit` returned.

    Returns:
        [N, K].
    """
    chosen: npt.NDArray[np.bool_] = probabilities >= least
    chosen[np.arange(len(chosen)), probabilities.argmax(axis=1)] = True
    return chosen


def _exact(rate: float) -> Fraction:
    """Return the rate as it is written: 1 - 0.9 in binary would miss the tenth image of ten."""
    return Fraction(repr(float(rate)))


@dataclass(frozen=True)
class Answers:
    """A head's thresholds at stated rates.

    Attributes:
        head: the head, whose left-out images set the thresholds.
        rejection: the stated rate of wrong rejections.
        coverage: the stated coverage of the sets.
    """

    head: Head
    rejection: float = REJECTION
    coverage: float = COVERAGE

    def __post_init__(self) -> None:
        """Refuse a rate that is not between 0 and 1."""
        for name, rate, example in (("reject", self.rejection, "0.05"), ("set coverage", self.coverage, "0.95")):
            if not 0 < rate < 1:
                raise UserError(f"{name} {rate:g}: must be above 0 and below 1, such as {example}")

    @property
    def farthest(self) -> float:
        """The distance above which an image is none of the classes; infinity where too few images were left out."""
        return distance_limit(np.array(self.head.distances), self.rejection)

    @property
    def least(self) -> float:
        """The least probability of a label in a set; 0 where too few images were left out."""
        return score_limit(np.array(self.head.scores), self.coverage)

    def find_remarks(self, *, rejecting: bool, covering: bool) -> list[str]:
        """Return a line for each statement that is asked, but that too few images were left out for."""
        lines = []
        if rejecting and math.isinf(self.farthest):
            most = len(self.head.distances)
            lines.append(f"{most} left-out images are too few for --reject {self.rejection:g}: no image is turned away")
        if covering and self.least == 0:
            most = len(self.head.scores)
            lines.append(
                f"{most} left-out images are too few for a coverage of {self.coverage:g}: sets hold all labels"
            )
        return lines

    def reject(self, embeddings: mx.array) -> npt.NDArray[np.bool_]:
        """Return which image features are none of the classes, [N, D] -> [N]."""
        rejected: npt.NDArray[np.bool_] = np.array(self.head.guard.distances(embeddings)) > self.farthest
        return rejected


def make_answers(prompt: Prompt, source: object, rejection: float | None, coverage: float | None) -> Answers:
    """Return the answers of a prompt at stated rates.

    Args:
        prompt: a tuned prompt.
        source: where it comes from, for the message.
        rejection: the stated rate of wrong rejections; None for 5 %.
        coverage: the stated coverage of the sets; None for 95 %.

    Raises:
        UserError: the prompt has no head, or a rate is not between 0 and 1.
    """
    if not isinstance(prompt.head, Head):
        raise UserError(
            f"{source}: without a head there is no telling what is none of the classes, and no set of labels; "
            "tune with the default --head"
        )
    return Answers(
        prompt.head,
        REJECTION if rejection is None else rejection,
        COVERAGE if coverage is None else coverage,
    )
