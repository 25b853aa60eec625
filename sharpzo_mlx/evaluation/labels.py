"""Choose the labels of image features as a user asked: the likeliest, sets of them, each by itself, or none of them.

>>> Choice.of(run, top=1, reject=0.05, coverage=None).answer(features.embeddings)[0]  # doctest: +SKIP
((('dog', 0.91),), False)
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.heads.answers import Answers, choose_sets, make_answers
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.run import Run

LIKELY = 0.5  # a label of its own probability is given from here on

Answered = list[tuple[tuple[tuple[str, float], ...], bool]]


@dataclass(frozen=True)
class MultiLabel:
    """Labels with a probability each; those that are likelier than not are given."""

    prompt: Prompt

    @classmethod
    def of(cls, run: Run, reject: float | None, coverage: float | None) -> MultiLabel:
        """Return what labels the run's images; UserError for a CLIP, or with a rate."""
        if reject is not None or coverage is not None:
            raise UserError(
                "multi-label: goes without --reject and --set-coverage, whose rates are of one label an image"
            )
        if run.prompt.logit_bias is None:
            raise UserError(
                f"{run.folder}: multi-label needs the logit bias of a SigLIP, which this run's model, a CLIP, does not "
                "have; tune on a SigLIP"
            )
        return cls(run.prompt)

    def answer(self, embeddings: mx.array) -> Answered:
        """Return for each image feature [N, D] its labels, and whether it is none of the classes."""
        probabilities = np.array(self.prompt.own_probabilities(embeddings))
        counts = (probabilities >= LIKELY).sum(axis=1).tolist()
        rows = zip(probabilities, counts, strict=True)
        return [(_top_labels(self.prompt, row, max(1, count)), count == 0) for row, count in rows]


@dataclass(frozen=True)
class Choice:
    """What was asked: how many labels, or sets of labels, and whether an image may be none of the classes."""

    prompt: Prompt
    top: int
    rejecting: Answers | None  # None: no image is turned away
    covering: Answers | None  # None: `top` labels

    @classmethod
    def of(cls, run: Run, top: int, reject: float | None, coverage: float | None) -> Choice:
        """Return what labels the run's images; UserError for a rate without a head, or one that is not one."""
        if reject is None and coverage is None:
            return cls(run.prompt, top, None, None)
        answers = make_answers(run.prompt, run.folder, reject, coverage)
        for remark in answers.find_remarks(rejecting=reject is not None, covering=coverage is not None):
            notify(f"{run.folder}: {remark}")
        return cls(run.prompt, top, None if reject is None else answers, None if coverage is None else answers)

    def answer(self, embeddings: mx.array) -> Answered:
        """Return for each image feature [N, D] its labels, and whether it is none of the classes."""
        probabilities = np.array(mx.softmax(self.prompt.logits(embeddings), axis=-1))
        counts = np.full(len(probabilities), self.top)
        if self.covering is not None:
            counts = choose_sets(probabilities, self.covering.least).sum(axis=1)
        rejected = np.zeros(len(probabilities), bool) if self.rejecting is None else self.rejecting.reject(embeddings)
        rows = zip(probabilities, counts.tolist(), rejected.tolist(), strict=True)
        return [(_top_labels(self.prompt, row, count), bad) for row, count, bad in rows]


def _top_labels(prompt: Prompt, row: np.ndarray, count: int) -> tuple[tuple[str, float], ...]:
    return tuple((prompt.class_names[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:count])
