"""Give a fitted head classes that have a name but no image: each gets a Gaussian at a mean that its words predict.

The means of the classes with images are regressed on their words (ridge regression with an intercept), and the penalty
is the one under which a class that is left out is predicted best. The Gaussian at the predicted mean has the covariance
and the share of all others, and the mean of their allowances, so that the class competes with them on equal terms.
docs/results/adding.md has what that is worth, beside the words alone.

>>> texts, means = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]), np.array([[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0]])
>>> predict_means(texts, means, np.array([[0.5, 0.5]]), np.eye(2)).round(1).tolist()
[[1.0, 1.0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.heads.closed_form import FLAT, Array, Linear
from sharpzo_mlx.heads.fit import FittedHead
from sharpzo_mlx.heads.judgement import judge
from sharpzo_mlx.runtime.products import host_products

PENALTIES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 1e9)  # times the mean square of a word; the last: no slope


@host_products()
def predict_means(texts: Array, means: Array, new: Array, root: Array, penalties: Sequence[float] = PENALTIES) -> Array:
    """Predict the means of classes from their words by those of other classes.

    Args:
        texts: class features of the K classes with images [K, D].
        means: their means [K, E].
        new: class features of the others [M, D].
        root: [E, F]; an error is as long as the error times it.
        penalties: those that are tried.

    Returns:
        [M, E].
    """
    centre = texts.mean(axis=0)
    x, level = texts - centre, means.mean(axis=0)
    products = x @ x.T
    unit = max(float(np.trace(products)) / len(x), FLAT)
    best, chosen = np.inf, np.zeros_like(means)
    for penalty in penalties:
        smoother = np.linalg.inv(products + penalty * unit * np.eye(len(x)))
        slopes = smoother @ (means - level)
        leverage = (products * smoother).sum(axis=1) + 1 / len(x)  # the intercept's part
        left_out = (means - level - products @ slopes) / np.maximum(1 - leverage, FLAT)[:, None]
        error = float(((left_out @ root) ** 2).sum())
        if error < best:
            best, chosen = error, slopes
    predicted: Array = level + (new - centre) @ x.T @ chosen
    return predicted


@dataclass(frozen=True)
class _Columns:
    """What a head says of its classes without images: M columns.

    Attributes:
        rest: the learned classifier without the words' own logits.
        left_out: its logits for each labelled image when that is left out [N, M].
        distances: of these images to the nearest of the M means [N].
        means: the predicted means [M, D].
    """

    rest: Linear
    left_out: Array
    distances: Array
    means: Array


def add_named_classes(
    fitted: FittedHead, words: mx.array, known: Sequence[int], penalties: Sequence[float] = PENALTIES
) -> FittedHead:
    """Return a head of more classes than have images.

    Args:
        fitted: the head of the K classes with images, before words are tuned beside it.
        words: class features of the plain words of all classes [K + M, D].
        known: for each of the K classes its position among all.
        penalties: of the regression, of which the best is taken.

    Returns:
        The same classifier with M more columns. Its left-out accuracies are on the same images, among all classes.
    """
    text, places = np.array(words, np.float64), np.asarray(known)
    named = np.setdiff1d(np.arange(len(text)), places)
    if not len(named):
        return fitted
    order = np.argsort(np.concatenate([places, named]))  # from (with images, without) to the classes' own order
    columns = _make_columns(fitted, text[named], penalties)
    rest = Linear(
        np.concatenate([fitted.rest.weights, columns.rest.weights])[order],
        np.concatenate([fitted.rest.bias, columns.rest.bias])[order],
    )
    left_out = np.concatenate([fitted.left_out, columns.left_out], axis=1)[:, order].astype(np.float32)
    images = replace(fitted.images, labels=places[fitted.images.labels])
    wider = replace(
        fitted,
        images=images,
        words=text,
        rest=rest,
        left_out=left_out,
        distances=np.minimum(fitted.distances, columns.distances),
    )
    return _judge_anew(wider, _place_means(fitted, columns.means, order))


@host_products()
def _make_columns(fitted: FittedHead, text: Array, penalties: Sequence[float]) -> _Columns:
    gaussians, head = fitted.gaussians, fitted.head
    root = gaussians.root
    deviations = text - fitted.words.mean(axis=0)
    means = predict_means(fitted.words, gaussians.means, text, root, penalties)  # from the mean of all classes
    weights, by_text = (means @ root) @ root.T, (deviations @ root) @ root.T
    allowance = float(gaussians.allowances.mean())
    bias = allowance - 0.5 * (weights * means).sum(axis=1) - weights @ gaussians.mean
    rest = Linear(
        head.image_share * weights + head.named_share * by_text,
        head.image_share * bias - head.named_share * by_text @ gaussians.mean,
    )
    rows, origin = np.arange(len(fitted.images.labels)), gaussians.mean
    own = gaussians.leave_out(rows).distances
    squared = gaussians.measure_left_out(rows, origin + means)
    # four times a product is the difference of two squared distances
    products = gaussians.measure_left_out(rows, origin - deviations) - gaussians.measure_left_out(
        rows, origin + deviations
    )
    density = allowance - 0.5 * (squared - own[:, None] ** 2)
    left_out = head.image_share * density + head.named_share * products / 4
    return _Columns(rest, left_out, np.sqrt(squared.min(axis=1)), origin + means)


def _place_means(fitted: FittedHead, means: Array, order: npt.NDArray[np.integer]) -> mx.array:
    """Return the whitened means of all classes, those of the guard and the predicted ones."""
    with host_products():
        white = means @ fitted.gaussians.root
    return mx.array(np.concatenate([np.array(fitted.head.guard.means), white])[order].astype(np.float32))


def _judge_anew(wider: FittedHead, means: mx.array) -> FittedHead:
    """Return the head with its weights, its guard and its accuracies among all classes."""
    head, rows = wider.head, wider.judged
    plain = wider.logit_scale * wider.words
    guard = replace(head.guard, means=means)
    told = judge(
        wider.images.embeddings[rows],
        wider.images.labels[rows],
        plain,
        head.text_share * plain,
        left_out=wider.left_out[rows],
        distances=wider.distances[rows],
        guard=guard,
    )
    changed = replace(
        head,
        weight=mx.array((head.text_share * plain + wider.rest.weights).astype(np.float32)),
        bias=mx.array(wider.rest.bias.astype(np.float32)),
        guard=guard,
        distances=mx.array(np.sort(wider.distances[rows]).astype(np.float32)),
        scores=mx.array(told.scores.astype(np.float32)),
    )
    return replace(
        wider,
        head=changed,
        accuracy=told.accuracy,
        zero_shot_accuracy=told.zero_shot_accuracy,
        right=told.right,
    )
