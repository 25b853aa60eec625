"""What the answers at stated rates are worth on images: how many are turned away, and how often a set holds the class.

Of each image its distance to what was learned, whether its set of labels holds its class, and the size of the set are
kept: seven bytes.

>>> outcomes = answer_images(answers, embeddings, logits, labels, images)  # doctest: +SKIP
>>> measure_answers(outcomes, answers).rejected  # doctest: +SKIP
0.04
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from sharpzo_mlx.datasets.evaluation_sets import EvaluationSet
from sharpzo_mlx.heads.answers import Answers, choose_sets
from sharpzo_mlx.heads.guard import open_by_distance


@dataclass(frozen=True)
class AnswerOutcomes:
    """What a head answers to N images; arrays of shape [N].

    Attributes:
        distance: float32, the guard's distance.
        covered: bool, whether the set of labels holds the image's own class.
        set_size: int16, how many of the competing classes are in the set.
    """

    distance: np.ndarray
    covered: np.ndarray
    set_size: np.ndarray


@dataclass(frozen=True)
class AnswerMetrics:
    """The answers of a head on one folder beside what was stated; shares are 0..1.

    Attributes:
        rejected: share of images that are called none of the classes.
        stated_rejection: the stated rate of that for images of the labelled kind.
        coverage: share of images whose class is in their set of labels.
        stated_coverage: the stated share, for images of the labelled kind.
        set_size: mean number of labels in a set.
        opening: mean opening of the guard.
    """

    rejected: float
    stated_rejection: float
    coverage: float
    stated_coverage: float
    set_size: float
    opening: float


def answer_images(
    answers: Answers, embeddings: mx.array, logits: np.ndarray, labels: np.ndarray, images: EvaluationSet
) -> AnswerOutcomes:
    """Return what a head answers to each image.

    Args:
        answers: the head with its thresholds.
        embeddings: image features [N, D] of unit norm.
        logits: [N, K], over all tuned classes.
        labels: [N] positions in the classes of `images`.
        images: which of the K classes compete, and the label that each stands for.
    """
    competing = logits[:, images.candidates]  # [N, C]
    powers = np.exp(competing - competing.max(axis=1, keepdims=True, initial=-np.inf))
    sets = choose_sets(powers / powers.sum(axis=1, keepdims=True), answers.least)
    own = images.owner[images.candidates][None, :] == labels[:, None]
    return AnswerOutcomes(
        distance=measure_distances(answers, embeddings),
        covered=(sets & own).any(axis=1),
        set_size=sets.sum(axis=1).astype(np.int16),
    )


def measure_distances(answers: Answers, embeddings: mx.array) -> np.ndarray:
    """Return the guard's distance of image features, [N, D] -> [N] float32."""
    return np.array(answers.head.guard.distances(embeddings))


def join_answers(parts: Sequence[AnswerOutcomes | None]) -> AnswerOutcomes | None:
    """Return the outcomes of several batches of images as one; None where there is no head."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    names = ("distance", "covered", "set_size")
    return AnswerOutcomes(*(np.concatenate([getattr(part, name) for part in found]) for name in names))


def measure_answers(outcomes: AnswerOutcomes, answers: Answers) -> AnswerMetrics:
    """Return the figures of the answers to N images, at least one."""
    return AnswerMetrics(
        rejected=float((outcomes.distance > answers.farthest).mean()),
        stated_rejection=answers.rejection,
        coverage=float(outcomes.covered.mean()),
        stated_coverage=answers.coverage,
        set_size=float(outcomes.set_size.mean()),
        opening=mean_opening(outcomes.distance, answers),
    )


def mean_opening(distances: np.ndarray, answers: Answers) -> float:
    """Return the mean opening of the guard for images at some distances [N], 0..1."""
    return float(open_by_distance(distances.astype(np.float64), answers.head.guard).mean())


def separation(own: np.ndarray, foreign: np.ndarray) -> float:
    """Return the AUROC of distances: the probability that a foreign image is farther than an own one, ties by half.

    Args:
        own: distances [N] of images of the labelled kind, at least one.
        foreign: distances [M] of others, at least one.
    """
    ranked = np.sort(own)
    below, up_to = np.searchsorted(ranked, foreign, "left"), np.searchsorted(ranked, foreign, "right")
    return float((below + up_to).mean() / (2 * len(own)))
