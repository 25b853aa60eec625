"""The default of `tune` and its parts: words and Gaussians joined by left-out images, the guard, words tuned beside.

`default` is what `tune` does without options. `head` is the same without a search, and `head-unguarded` is `head` with
its guard always open, so that the images unlike the labelled ones hear what was learned too. A head is fitted to
training and validation images alike, so its validation score is that of left-out images, and the guard's is part of it.

>>> [method.name for method in METHODS]
['head-unguarded', 'head', 'default']
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.comparison.methods.classifiers import HeadClassifier
from sharpzo_mlx.comparison.methods.method import Method, Predictor, Progress, Steps, Task
from sharpzo_mlx.comparison.methods.staged_search import follow
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.features.extract import finish
from sharpzo_mlx.heads.fit import FittedHead, fit_head
from sharpzo_mlx.heads.judgement import guarded_logits, own_probabilities
from sharpzo_mlx.objective.loss import Score, mark_right
from sharpzo_mlx.prompts.ensemble import template_features
from sharpzo_mlx.runtime.products import host_products
from sharpzo_mlx.tuning.beside_head import choose_words, count_views, encode_all_views, make_problem_beside_head
from sharpzo_mlx.tuning.budget import check_budget
from sharpzo_mlx.tuning.problem import TuningProblem


def fit_only(
    task: Task, options: Mapping[str, Any], *, change: Callable[[FittedHead], FittedHead] = lambda fitted: fitted
) -> Steps:
    """Fit the head of `tune` beside the plain words, without a search.

    Args:
        task: the images.
        options: settings of TuneConfig that are changed.
        change: of the head, after it was fitted.
    """
    config = _make_config(task.config, options)
    views, passes = _encode_views(task, config)
    words = template_features(task.clip, (config.template or PLAIN,), task.train.class_names)
    fitted = change(fit_head(words, task.clip.logit_scale, task.train, task.val, views=views))
    score, classifier = _score(fitted), _classify(fitted)
    yield Progress(0, score, score, lambda: classifier, image_passes=passes)
    return classifier


def open_guard(fitted: FittedHead) -> FittedHead:
    """Return a head that lets every image hear all that was learned."""
    guard = replace(fitted.head.guard, centre=math.inf)
    rows, labels = fitted.judged, fitted.images.labels[fitted.judged]
    with host_products():
        plain = fitted.logit_scale * fitted.images.embeddings[rows].astype(np.float64) @ fitted.words.T
    learned = fitted.head.text_share * plain + fitted.left_out[rows]
    summed = guarded_logits(plain, learned, fitted.distances[rows], guard)
    scores = np.sort(own_probabilities(summed, labels)).astype(np.float32)
    head = replace(fitted.head, guard=guard, scores=mx.array(scores))
    return replace(fitted, head=head, accuracy=float(mark_right(summed, labels).mean()))


def tune_beside_head(task: Task, options: Mapping[str, Any]) -> Steps:
    """Do what `tune` does: fit the head, search for words beside it, and keep them if they add to it.

    The search has the length of `tune`, or ends with the query budget.

    Args:
        task: the images and the budget.
        options: settings of TuneConfig that are changed.

    Raises:
        UserError: the budget does not buy a step.
    """
    config = _make_config(task.config, options)
    views, passes = _encode_views(task, config)
    problem = make_problem_beside_head(task.clip, task.train, task.val, config, views=views)
    problem = replace(problem, config=_limit(problem.config, task.query_budget))
    w = yield from follow(problem, partial(_classify_at, problem), image_passes=passes)
    fitted = _fitted_at(problem, choose_words(problem, w).w)
    score, classifier = _score(fitted), _classify(fitted)
    yield Progress(problem.objective.queries, score, score, lambda: classifier, image_passes=passes)
    return classifier


def check_default(config: TuneConfig, options: Mapping[str, Any]) -> None:
    """Raise a UserError if the query budget of `config` buys no step beside a head."""
    assert config.query_budget is not None, "methods have a query budget"
    check_budget(_limit(_make_config(config, options), config.query_budget))


def _make_config(config: TuneConfig, options: Mapping[str, Any]) -> TuneConfig:
    """Return the options of `tune` with its default head, and no budget."""
    return replace(config, head="gda", query_budget=None).with_settings(options)


def _limit(config: TuneConfig, queries: int) -> TuneConfig:
    """Return the options with the length and the patience that they have without a budget, but with this budget."""
    selection = replace(config.selection, patience=config.patience)
    longest = replace(config, generations=config.most_generations, steps=config.most_steps)
    return replace(longest, selection=selection, query_budget=queries)


def _encode_views(task: Task, config: TuneConfig) -> tuple[mx.array | None, int]:
    """Return the mean features of the labelled images' views, or None, and the image passes that they take."""
    views = count_views(config, task.train, task.val)
    found = finish(encode_all_views(task.clip, task.train, task.val, views))
    task.clip.release_vision()
    return found, views * (len(task.train.labels) + len(task.val.labels))


def _fitted_at(problem: TuningProblem, w: mx.array) -> FittedHead:
    """Return the head beside the words of w [d]."""
    fitted = problem.prompt_with_head(w)[1]
    assert fitted is not None, "the problem has a head"
    return fitted


def _classify_at(problem: TuningProblem, w: mx.array) -> Predictor:
    return _classify(_fitted_at(problem, w))


def _classify(fitted: FittedHead) -> HeadClassifier:
    return HeadClassifier(fitted.head, mx.array(fitted.words.astype(np.float32)), fitted.logit_scale)


def _score(fitted: FittedHead) -> Score:
    """Return the accuracy and the loss of a head on left-out images."""
    own = np.maximum(np.array(fitted.head.scores, np.float64), np.finfo(np.float32).tiny)
    return Score(fitted.accuracy, float(-np.log(own).mean()), len(own))


SOURCE = "`tune`, without its search"
METHODS = (
    Method("head-unguarded", "Words + Gaussians", f"{SOURCE} and guard", partial(fit_only, change=open_guard)),
    Method("head", "Words + Gaussians + guard", SOURCE, fit_only),
    Method(
        name="default",
        title="Words tuned beside Gaussians + guard",
        source="the default of `tune`",
        start=tune_beside_head,
        check=check_default,
    ),
)
