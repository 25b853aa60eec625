"""Closed-form classifiers of the cached image features, alone or joined with a text classifier.

Nearest class mean, ridge regression on one-hot targets and Gaussian discriminant analysis use images alone. The last is
also joined with the zero-shot classifier ("A Hard-to-Beat Baseline for Training-Free CLIP-based Adaptation", ICLR 2024,
arXiv 2402.04087) or with SharpZO's tuned one. Fitting makes no query. Free parameters are chosen on the validation
images, or by leave-one-out errors of the training images.

>>> [method.name for method in METHODS]
['ncm', 'ridge', 'gda-alone', 'gda', 'sharpzo-gda']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier, LinearClassifier
from sharpzo_mlx.comparison.methods.method import Method, Predictor, Progress, Steps, Task
from sharpzo_mlx.comparison.methods.staged_search import check_search, keep_settings, search
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads import closed_form, ensemble
from sharpzo_mlx.objective.loss import Score, score_calibrated

BASELINE = "Wang et al., ICLR 2024, arXiv 2402.04087"
MIXTURES: Mapping[str, Callable[..., ensemble.Shares]] = {
    "loss": ensemble.choose_shares_by_loss,
    "accuracy": ensemble.choose_shares_by_accuracy,
}


def fit_alone(task: Task, options: Mapping[str, Any], *, fit: closed_form.Fit) -> Steps:
    """Fit a closed form; its temperature, which changes no label, is set on the validation images.

    Args:
        task: the images.
        options: arguments of `fit`.
        fit: fits the closed form to training features.
    """
    linear = fit(np.array(task.train.embeddings), task.train.labels, len(task.train.class_names), **options)
    found = linear.logits(np.array(task.val.embeddings))
    shares = ensemble.choose_shares_by_loss(np.zeros_like(found), found, task.val.labels)
    classifier = LinearClassifier(linear, shares.image or 1.0)
    score = _score(classifier, task.val)
    yield Progress(0, score, score, lambda: classifier)
    return classifier


def join_with_words(
    task: Task, options: Mapping[str, Any], *, words: Callable[[Task, Mapping[str, Any]], Steps]
) -> Steps:
    """Run a method that returns a text classifier, and join it with Gaussian discriminant analysis.

    Args:
        task: the images.
        options: `mixture` says what chooses the shares of the two (loss or accuracy); the rest belongs to `words`.
        words: makes the generator of the method; its predictor is a CosineClassifier.
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
    text_logits = np.array(text.logits(task.val))
    shares = choose(text_logits, linear.logits(np.array(task.val.embeddings)), task.val.labels)
    text_weights = text.logit_scale * np.array(text.class_features, np.float64)
    classifier = LinearClassifier(ensemble.join_classifiers(text_weights, linear, shares))
    score = _score(classifier, task.val)
    joined = Progress(0, score, score, lambda: classifier)
    yield replace(last, score=score, best=score, kept=joined.kept) if last else joined
    return classifier


def _of_words(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options without those of the closed form."""
    return {name: value for name, value in options.items() if name != "mixture"}


def _keep_zero_shot(task: Task, options: Mapping[str, Any]) -> Steps:
    """Return the zero-shot classifier without a record."""
    problem = task.problem(options)
    yield from ()
    return CosineClassifier.at(problem, mx.zeros(problem.objective.dimension))


def _score(classifier: Predictor, val: Features) -> Score:
    """Return accuracy and loss, at the best temperature, of a predictor on validation images."""
    return score_calibrated(classifier.logits(val), mx.array(val.labels))


TRIALS: tuple[Mapping[str, Any], ...] = ({"mixture": "loss"}, {"mixture": "accuracy"})
METHODS = (
    Method("ncm", "Nearest class mean", "-", partial(fit_alone, fit=closed_form.fit_nearest_mean)),
    Method("ridge", "Ridge regression", "-", partial(fit_alone, fit=closed_form.fit_ridge)),
    Method("gda-alone", "GDA", BASELINE, partial(fit_alone, fit=closed_form.fit_discriminant)),
    Method(
        name="gda",
        title="Zero-shot + GDA",
        source=BASELINE,
        start=partial(join_with_words, words=_keep_zero_shot),
        published={"mixture": "accuracy"},
        tuned={"mixture": "loss"},
        trials=TRIALS,
    ),
    Method(
        name="sharpzo-gda",
        title="SharpZO + GDA",
        source=f"the search of `tune --head none`, joined as in {BASELINE}",
        start=partial(join_with_words, words=partial(search, stages=keep_settings)),
        check=lambda config, options: check_search(config, _of_words(options), stages=keep_settings),
        published={"mixture": "accuracy"},
        tuned={"mixture": "loss"},
        trials=TRIALS,
    ),
)
