"""Fit the head of a run, and set up the search for words that add to it.

The words are tuned beside a head that was fitted to the training images alone, so that the validation images are new to
both. Whether the tuned words are kept is decided there: their loss must be lower by more than twice its standard error,
because the best of several candidates is looked at, and the head of all images must name as many left-out validation
images beside them as beside the plain words. Otherwise the plain words stay, which cost nothing and hold under
shift.

    problem = make_problem_beside_head(clip, train, val, config, views=views)
    chosen = choose_words(problem, search.best_w)
    prompt = problem.prompt(chosen.w)
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.errors import notify
from sharpzo_mlx.features.extract import EncodeProgress, Features, relay
from sharpzo_mlx.features.views import VIEWS, encode_views_steps
from sharpzo_mlx.heads.fit import fit_head
from sharpzo_mlx.objective.loss import mark_right
from sharpzo_mlx.prompts.ensemble import template_features
from sharpzo_mlx.tuning.problem import TuningProblem, make_problem

FEW = 8  # labelled images a class up to which views of them pay (docs/results/heads.md)
ERRORS = 2.0  # standard errors of the fall of the loss that tuned words must exceed


@dataclass(frozen=True)
class WordsGain:
    """What tuned words add to a head on validation images that neither had seen.

    Attributes:
        mean: the fall of the loss, in nats an image.
        error: its standard error.
        accuracy: the change of the accuracy.
    """

    mean: float
    error: float
    accuracy: float

    @property
    def worth_keeping(self) -> bool:
        """Whether the loss falls by more than twice its standard error, and the accuracy does not."""
        return self.mean > ERRORS * self.error and self.accuracy >= 0


@dataclass(frozen=True)
class ChosenWords:
    """The words that a head keeps.

    Attributes:
        w: the vector of the words [d]; zeros are the plain words.
        gain: what the words that the search found add; None where nothing was searched.
    """

    w: mx.array
    gain: WordsGain | None


def count_views(config: TuneConfig, train: Features, val: Features) -> int:
    """Return how many augmented views of each labelled image the head learns from."""
    if config.views is not None:
        return config.views
    return VIEWS if len(train.labels) + len(val.labels) <= FEW * len(train.class_names) else 0


def encode_all_views(
    clip: Clip, train: Features, val: Features, views: int
) -> Generator[EncodeProgress, None, mx.array | None]:
    """Return the unit-norm mean of the views of each labelled image [N, D], training images first; None for no views.

    Yields:
        The progress of both sets as one.
    """
    if not views:
        return None
    parts, last = [], EncodeProgress(0, 0, 0)
    total = len(train.labels) + len(val.labels)
    for images in (train, val):
        before = last

        def add(now: EncodeProgress, before: EncodeProgress = before) -> EncodeProgress:
            nonlocal last
            last = EncodeProgress(before.done + now.done, total, before.cached + now.cached, now.looked_up)
            return last

        parts.append((yield from relay(encode_views_steps(clip, images, views=views), add)))
    joined = mx.concatenate(parts)
    mx.eval(joined)
    return joined


def make_problem_beside_head(
    clip: Clip,
    train: Features,
    val: Features,
    config: TuneConfig,
    *,
    templates: tuple[str, ...] = (),
    views: mx.array | None = None,
) -> TuningProblem:
    """Fit the head to all labelled images, and build the problem of finding words that add to it.

    Args:
        clip: the checkpoint.
        train: the training images.
        val: the validation images, of the same classes; may be empty: then the words stay as they are.
        config: the options.
        templates: several templates, whose mean is the plain classifier; empty: the one template.
        views: the unit-norm mean features of the views of all images, training images first, or None.
    """
    words = template_features(clip, templates or (config.template or PLAIN,), train.class_names)
    head = fit_head(words, clip.logit_scale, train, val, views=views)
    zero_shot = words if templates else None
    if not can_search(config, train, val):
        still = replace(config, generations=0, steps=0, query_budget=None, time_budget=None)
        return make_problem(clip, train, val, still, zero_shot=zero_shot, head=head)
    of_training = None if views is None else views[: len(train.labels)]
    inner = fit_head(words, clip.logit_scale, train, val.take([]), views=of_training)
    return make_problem(
        clip,
        train,
        val,
        config,
        zero_shot=zero_shot,
        logit_scale=clip.logit_scale * inner.head.text_share,
        offsets=mx.array(inner.offsets),
        val_offsets=_centre(inner.rest.logits(np.array(val.embeddings))),
        head=head,
    )


def can_search(config: TuneConfig, train: Features, val: Features) -> bool:
    """Return whether words can be tuned beside a head; a notice says why not where the user asked for a search."""
    if not config.most_steps and not config.most_generations:
        return False
    counts = np.bincount(train.labels, minlength=len(train.class_names))
    reason = "no validation image" if not len(val.labels) else ""
    reason = reason or ("one training image a class" if counts.max() == 1 else "")
    if reason and (config.steps or config.generations or config.query_budget or config.time_budget):
        notify(f"there is {reason}, so the words are not tuned: the head learns from the images alone")
    return not reason


def choose_words(problem: TuningProblem, w: mx.array) -> ChosenWords:
    """Keep the words of w [d] if they add to the head, else the plain ones.

    Args:
        problem: beside a head.
        w: the best vector of the search; zeros if it found none, or there was none.
    """
    if mx.any(w != 0).item():
        gain = measure_gain(problem, w)
        kept = gain.worth_keeping and names_as_many(problem, w)
        return ChosenWords(w if kept else mx.zeros_like(w), gain)
    searched = problem.config.most_steps or problem.config.most_generations
    return ChosenWords(w, WordsGain(0.0, 0.0, 0.0) if searched else None)


def names_as_many(problem: TuningProblem, w: mx.array) -> bool:
    """Return whether the head of all images names as many left-out validation images beside the words of w [d]."""
    assert problem.head is not None, "the problem has a head"
    change = problem.objective.class_features(w) - problem.objective.class_features(mx.zeros_like(w))
    return problem.head.with_words(change).accuracy >= problem.head.with_words(mx.zeros_like(change)).accuracy


def measure_gain(problem: TuningProblem, w: mx.array) -> WordsGain:
    """Measure what the words of w [d] add on the validation images."""
    labels = np.array(problem.val.labels)
    losses, right = [], []
    for point in (mx.zeros_like(w), w):
        logits = np.array(problem.val_logits(point), np.float64)
        top = logits.max(axis=1)
        losses.append(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(labels)), labels])
        right.append(mark_right(logits, labels).mean())
    fall = losses[0] - losses[1]
    error = float(fall.std(ddof=1) / np.sqrt(len(fall))) if len(fall) > 1 else float("inf")
    return WordsGain(float(fall.mean()), error, float(right[1] - right[0]))


def _centre(logits: np.ndarray) -> mx.array:
    """Return logits of mean 0 in each row, as float32: a constant changes no loss, but costs digits."""
    return mx.array((logits - logits.mean(axis=1, keepdims=True)).astype(np.float32))
