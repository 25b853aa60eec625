"""Fit the head of a run anew to old and new images, and say what that changed.

The words stay as they are: a tuned context gives the new class names their features too.

>>> before, after = refit(words, change, scale, old), refit(wider, wider_change, scale, old_and_new)  # doctest: +SKIP
>>> before.accuracy, after.accuracy  # doctest: +SKIP
(0.54, 0.57)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.fit import FittedHead, fit_labelled
from sharpzo_mlx.heads.labelled_set import LabelledSet
from sharpzo_mlx.heads.named_classes import add_named_classes
from sharpzo_mlx.objective.loss import mark_right
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.version_record import AccuracyChange

SHOWN = 5  # classes that are named
LEAST_IMAGES = 2  # images by which a class must change to be named


def refit(words: mx.array, change: mx.array, logit_scale: float, images: LabelledSet) -> FittedHead:
    """Fit a head to labelled images; classes without an image get theirs from their words.

    Args:
        words: class features of the plain words of all classes [K, D].
        change: those of the tuned words minus these [K, D]; zeros where the words are plain.
        logit_scale: s, the factor that turns cosines into logits.
        images: the labelled images; those behind the training images are new to the tuned words.
    """
    known = np.unique(images.labels)
    own = replace(images, labels=np.searchsorted(known, images.labels))
    fitted = add_named_classes(
        fit_labelled(words[mx.array(known.astype(np.int32))], logit_scale, own), words, known.tolist()
    )
    return fitted.with_words(change) if mx.any(change != 0).item() else fitted


def join_features(first: Features, second: Features) -> Features:
    """Return the images of two sets as one, with the classes of the second."""
    return replace(
        second,
        embeddings=mx.concatenate([first.embeddings, second.embeddings]),
        labels=np.concatenate([first.labels, second.labels]),
        paths=first.paths + second.paths,
        digests=first.digests + second.digests,
    )


def append_images(old: LabelledSet, new: Features, views: mx.array | None) -> LabelledSet:
    """Return the old labelled images and new ones.

    Args:
        old: the images.
        new: those that are added.
        views: the unit-norm means of the new images' views [n, D]; None: nothing is learned from views any more.
    """
    added = LabelledSet.of(new.take([]), new, views)
    averages = None
    if old.averages is not None and added.averages is not None:
        averages = np.concatenate([old.averages, added.averages])
    embeddings = np.concatenate([old.embeddings, added.embeddings])
    return LabelledSet(embeddings, np.concatenate([old.labels, new.labels]), old.training, averages)


def compare_heads(before: FittedHead, after: FittedHead, old: Prompt, new: Features) -> tuple[AccuracyChange, ...]:
    """Compare two heads on the images that were labelled before, and on the new ones.

    Args:
        before: fitted to the old images.
        after: fitted to the old images and, behind them, the new ones.
        old: the prompt before, which has not seen the new images.
        new: the new images.
    """
    count = len(before.images.labels)
    first, second = _spread(before, count), _spread(after, len(after.images.labels))
    both = _known(first) & _known(second[:count])
    rows = [_compare("labelled before", first[both], second[:count][both])]
    known = new.labels < len(old.class_names)
    if known.any():
        seen = new.take(np.flatnonzero(known))
        right = mark_right(np.array(old.logits(seen.embeddings)), seen.labels)
        rows.append(_compare("added, known classes", right, second[count:][known]))
    rows.append(_compare("added, new classes", None, second[count:][~known]))
    return tuple(row for row in rows if row.count)


def compare_classes(before: FittedHead, after: FittedHead, names: Sequence[str]) -> tuple[AccuracyChange, ...]:
    """Return the old classes whose accuracy on left-out images changed most, the greatest loss first."""
    count = len(before.images.labels)
    first, second = _spread(before, count), _spread(after, len(after.images.labels))[:count]
    both, labels = _known(first) & _known(second), before.images.labels
    found = []
    for label in np.unique(labels).tolist():
        rows = both & (labels == label)
        change = second[rows].sum() - first[rows].sum()
        if abs(change) >= LEAST_IMAGES:
            found.append((change, _compare(names[label], first[rows], second[rows])))
    largest = sorted(found, key=lambda one: -abs(one[0]))[:SHOWN]
    return tuple(row for _, row in sorted(largest, key=lambda one: one[0]))


def _spread(fitted: FittedHead, count: int) -> npt.NDArray[np.float64]:
    """Return for each labelled image whether it is named when it is left out; NaN where that is not judged."""
    found = np.full(count, np.nan)
    found[fitted.judged] = fitted.right
    return found


def _known(right: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    known: npt.NDArray[np.bool_] = ~np.isnan(right)
    return known


def _compare(images: str, before: np.ndarray | None, after: np.ndarray) -> AccuracyChange:
    if not len(after):
        return AccuracyChange(images, 0, None, None)
    return AccuracyChange(images, len(after), None if before is None else float(before.mean()), float(after.mean()))
