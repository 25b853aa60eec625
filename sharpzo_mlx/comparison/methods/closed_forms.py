"""What a user would do instead: closed-form classifiers of the cached features, alone and joined with the words.

Nearest class mean and ridge regression on one-hot targets see images alone. Gaussian discriminant analysis is joined
with the zero-shot classifier ("A Hard-to-Beat Baseline for Training-Free CLIP-based Adaptation", ICLR 2024, arXiv
2402.04087), or with SharpZO's tuned one. They make no query. What is chosen is chosen on validation images, or by
leave-one-out errors of the training images.

>>> [method.name for method in METHODS]
['ncm', 'ridge', 'gda', 'sharpzo-gda']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.comparison.methods import searches
from sharpzo_mlx.comparison.methods.method import CosineClassifier, Method, Predictor, Progress, Steps, Task
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads import closed_form, ensemble
from sharpzo_mlx.objective.loss import Score, score_logits

BASELINE = "Wang et al., ICLR 2024, arXiv 2402.04087"
MIXTURES: Mapping[str, Callable[..., ensemble.Shares]] = {
    "loss": ensemble.choose_shares_by_loss,
    "accuracy": ensemble.choose_shares_by_accuracy,
}


@dataclass(frozen=True)
class LinearClassifier:
    """A closed-form classifier, its logits multiplied by `share`."""

    linear: closed_form.Linear
    share: float = 1.0

    def logits(self, features: Features) -> mx.array:
        """[N, K]."""
        found = self.share * self.linear.logits(np.array(features.embeddings))
        return mx.array(found.astype(np.float32))


def alone(task: Task, options: Mapping[str, Any], *, fit: closed_form.Fit) -> Steps:
    """A closed form by itself; its temperature, which changes no label, is set on the validation images.

    Args:
        task: the images.
        options: of `fit`.
        fit: the closed form.
    """
    linear = fit(np.array(task.train.embeddings), task.train.labels, len(task.train.class_names), **options)
    found = linear.logits(np.array(task.val.embeddings))
    shares = ensemble.choose_shares_by_loss(np.zeros_like(found), found, task.val.labels)
    classifier = LinearClassifier(linear, shares.image or 1.0)
    score = _score(classifier, task.val)
    yield Progress(0, score, score, lambda: classifier)
    return classifier


def joined(task: Task, options: Mapping[str, Any], *, words: Callable[[Task, Mapping[str, Any]], Steps]) -> Steps:
    """Gaussian discriminant analysis and a text classifier.

    Args:
        task: the images.
        options: `mixture`, by what the shares are chosen (loss, accuracy); the rest belongs to `words`.
        words: the method that gives the text classifier, one of class features.
    """
    last: Progress | None = None
    steps = words(task, _of_words(options))
    while True:
        try:
            last = next(steps)
        except StopIteration as end:
            text: CosineClassifier = end.value
            break
        yield last
    linear = closed_form.fit_discriminant(
        np.array(task.train.embeddings), task.train.labels, len(task.train.class_names)
    )
    choose = MIXTURES[options.get("mixture", "loss")]
    spoken = np.array(text.logits(task.val))
    shares = choose(spoken, linear.logits(np.array(task.val.embeddings)), task.val.labels)
    spoken_weights = text.logit_scale * np.array(text.class_features, np.float64)
    classifier = LinearClassifier(ensemble.join_classifiers(spoken_weights, linear, shares))
    score = _score(classifier, task.val)
    joint = Progress(0, score, score, lambda: classifier)
    yield replace(last, score=score, best=score, kept=joint.kept) if last else joint
    return classifier


def _of_words(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in options.items() if name != "mixture"}


def _zero_shot(task: Task, options: Mapping[str, Any]) -> Steps:
    problem = task.problem(options)
    yield from ()
    return CosineClassifier.at(problem, mx.zeros(problem.objective.dimension))


def _score(classifier: Predictor, val: Features) -> Score:
    return score_logits(classifier.logits(val), mx.array(val.labels))


TRIALS: tuple[Mapping[str, Any], ...] = ({"mixture": "loss"}, {"mixture": "accuracy"})
METHODS = (
    Method("ncm", "Nearest class mean", "-", partial(alone, fit=closed_form.fit_nearest_mean)),
    Method("ridge", "Ridge regression", "-", partial(alone, fit=closed_form.fit_ridge)),
    Method(
        name="gda",
        title="Zero-shot + GDA",
        source=BASELINE,
        start=partial(joined, words=_zero_shot),
        published={"mixture": "accuracy"},
        tuned={"mixture": "loss"},
        trials=TRIALS,
    ),
    Method(
        name="sharpzo-gda",
        title="SharpZO + GDA",
        source=f"`tune --head gda`; {BASELINE}",
        start=partial(joined, words=partial(searches.searched, stages=searches.as_configured)),
        check=lambda config, options: searches.check_searched(
            config, _of_words(options), stages=searches.as_configured
        ),
        published={"mixture": "accuracy"},
        tuned={"mixture": "loss"},
        trials=TRIALS,
    ),
)
