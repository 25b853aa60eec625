"""Fit a head to all labelled images: the Gaussians, their shares beside the words, and the guard.

    learned(f) = a s <f, t_k> + b (Gaussians' log-density) + c <f, t_k> in the Gaussians' metric

Everything that is chosen (the shares a, b, c, the shrinkage, the guard's scale, the thresholds) is chosen on left-out
images: each labelled image is judged by Gaussians that were fitted to all others. So training and validation images
alike are learned from, and one or two images a class need no others. Test images are not used.

>>> fitted = fit_head(words, 100.0, train, val)  # doctest: +SKIP
>>> fitted.head.text_share, fitted.accuracy, fitted.zero_shot_accuracy  # doctest: +SKIP
(0.31, 0.93, 0.88)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.closed_form import Array, Linear
from sharpzo_mlx.heads.gaussians import GaussianFit
from sharpzo_mlx.heads.guard import make_guard
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.heads.judgement import blocks, judge
from sharpzo_mlx.heads.labelled_set import LabelledSet
from sharpzo_mlx.heads.shares import Prior, choose_shares, make_prior
from sharpzo_mlx.runtime.products import host_products

SHRINKAGES = (0.25, 0.5, 1.0, 2.0, 4.0)
PLAIN = SHRINKAGES.index(1.0)
TIE = 1e-3  # nats by which another shrinkage must be better: where all are right, rounding would choose
ENTRIES = 1_000_000  # of the logits that the shares are chosen on: more images would not change them
PARTS = (1.0, 0.5, 0.25, 0.125)  # of the shares of what was learned, tried until the words alone are no better
APART = 3.0  # standard errors by which validation images are farther than training images if those are averages
FEWEST = 50  # validation images from which that can be told


@dataclass(frozen=True)
class FittedHead:
    """A head, and what its parts say of the labelled images when they are left out.

    Attributes:
        head: the classifier.
        images: the labelled images.
        gaussians: those of the images; of fewer classes than the head where a class has a name alone.
        words: class features of the plain words [K, D].
        logit_scale: s, the factor that turns cosines into logits.
        rest: the learned classifier without the words' own logits.
        left_out: the logits of `rest` for each labelled image when it is left out, [N, K] float32. Where an image is
            the only one of its class, the column of that class is minus infinity.
        distances: the guard's distance of each image when it is left out [N].
        judged: the rows of the labelled images that are like the images to be classified, for accuracies.
        accuracy: of the whole classifier on those, left out, 0..1.
        zero_shot_accuracy: of the plain words on the same images.
        right: which of them the whole classifier names, in the order of `judged`.
    """

    head: Head
    images: LabelledSet
    gaussians: GaussianFit
    words: Array
    logit_scale: float
    rest: Linear
    left_out: npt.NDArray[np.float32]
    distances: Array
    judged: npt.NDArray[np.integer]
    accuracy: float
    zero_shot_accuracy: float
    right: npt.NDArray[np.bool_]

    @property
    def offsets(self) -> npt.NDArray[np.float32]:
        """What is added to the words' logits of each labelled image when it is left out, [N, K], of mean 0.

        It is 0 where an image is the only one of its class, since nothing but the words can name it.
        """
        known = np.isfinite(self.left_out).all(axis=1, keepdims=True)
        centred = self.left_out - np.where(known, self.left_out.mean(axis=1, keepdims=True), 0)
        found: npt.NDArray[np.float32] = np.where(known, centred, 0).astype(np.float32)
        return found

    def with_words(self, change: mx.array) -> FittedHead:
        """Return the head beside tuned words.

        The words saw the training images, so that from here on only the validation images count as left out.

        Args:
            change: the tuned class features minus the plain ones [K, D].
        """
        added = self.head.text_share * self.logit_scale * np.array(change, np.float64)
        rows = np.arange(self.images.training, len(self.images.labels))
        plain = self.logit_scale * self.words
        told = judge(
            self.images.embeddings[rows],
            self.images.labels[rows],
            plain,
            self.head.text_share * plain + added,
            left_out=self.left_out[rows],
            distances=self.distances[rows],
            guard=self.head.guard,
        )
        weight = self.head.weight + _as_float32(added)
        return replace(
            self,
            head=replace(self.head, weight=weight, scores=_as_float32(told.scores)),
            judged=rows,
            accuracy=told.accuracy,
            zero_shot_accuracy=told.zero_shot_accuracy,
            right=told.right,
        )


@dataclass(frozen=True)
class _Choice:
    """One shrinkage with its best shares."""

    gaussians: GaussianFit
    shares: Array  # [3]: of the words, of the Gaussians, of the words in their metric
    loss: float


def fit_head(
    words: mx.array, logit_scale: float, train: Features, val: Features, *, views: mx.array | None = None
) -> FittedHead:
    """Fit a head beside the plain words to two sets of images; see `fit_labelled`.

    Args:
        words: class features of the plain words [K, D].
        logit_scale: s, the factor that turns cosines into logits.
        train: training images, every class present.
        val: further labelled images of the same classes; may be empty.
        views: the unit-norm mean feature of augmented views of each image [N, D], training images first; None: none.

    Raises:
        UserError: the feature of an image is not of finite numbers.
    """
    _check_finite(train)
    _check_finite(val)
    return fit_labelled(words, logit_scale, LabelledSet.of(train, val, views))


def fit_labelled(words: mx.array, logit_scale: float, images: LabelledSet) -> FittedHead:
    """Fit a head beside the plain words.

    Where left-out images say that the sum is worse than the plain words, what was learned from images gets half of its
    shares, a quarter and so on, until it is not.

    Args:
        words: class features of the plain words [K, D].
        logit_scale: s, the factor that turns cosines into logits.
        images: the labelled images, every class present.
    """
    text = np.array(words, np.float64)
    gaussians = images.fit(len(text))
    judged = _find_representative(images, gaussians)
    rows = _spread_rows(judged[gaussians.counts[images.labels[judged]] > 1], images.labels, len(text))
    choice = _choose(images, gaussians, text, logit_scale, rows)
    for part in PARTS:
        weaker = replace(choice, shares=choice.shares * np.array([1.0, part, part]))
        fitted = _assemble(weaker, images, text, logit_scale, judged)
        if fitted.accuracy >= fitted.zero_shot_accuracy:
            return fitted
    return _assemble(_choose_words_alone(images, gaussians, text, logit_scale), images, text, logit_scale, judged)


def _check_finite(images: Features) -> None:
    finite = np.all(np.isfinite(np.array(images.embeddings)), axis=1)
    if not finite.all():
        path = images.paths[int(finite.argmin())]
        problem = "the checkpoint turns this image into numbers that are not finite"
        raise UserError(f"{path}: {problem}; remove it, or convert the checkpoint anew with --dtype float32")


def _find_representative(images: LabelledSet, gaussians: GaussianFit) -> npt.NDArray[np.integer]:
    """Return the rows that are like the images to be classified: all, or those for validation.

    Training features may be averages over views of an image, and then lie closer to the class means than an image
    does. That shows in the distances of left-out images.
    """
    everything, number = np.arange(len(images.labels)), len(images.labels) - images.training
    if number < FEWEST or images.averages is not None:
        return everything
    distances = gaussians.leave_out(everything).distances
    train, val = distances[: images.training], distances[images.training :]
    error = np.sqrt(train.var() / len(train) + val.var() / len(val))
    return everything[images.training :] if val.mean() - train.mean() > APART * error else everything


def _spread_rows(
    rows: npt.NDArray[np.integer], labels: npt.NDArray[np.integer], classes: int
) -> npt.NDArray[np.integer]:
    """Return the rows, or, where there are very many, as many of each class as share the choice's cost."""
    most = max(classes, ENTRIES // classes)
    if len(rows) <= most:
        return rows
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(rows) - 1, most).astype(int)])


def _choose(
    images: LabelledSet, gaussians: GaussianFit, text: Array, logit_scale: float, rows: npt.NDArray[np.integer]
) -> _Choice:
    """Return the shrinkage and the shares with the highest posterior probability."""
    prior, labels = make_prior(len(images.labels) / len(text)), images.labels[rows]
    with host_products():
        plain = logit_scale * images.embeddings[rows].astype(np.float64) @ text.T
    if not len(rows):
        return _choose_without_left_out(images, gaussians, text, logit_scale, prior)
    tried = []
    for shrinkage in SHRINKAGES:
        shrunk = gaussians.with_shrinkage(shrinkage)
        left_out = shrunk.leave_out(rows, text)
        found = choose_shares(np.stack([plain, left_out.logits, left_out.text]), labels, prior)
        tried.append(_Choice(shrunk, found.values, found.loss))
    lowest = min(choice.loss for choice in tried)
    equal = [choice.loss <= lowest + TIE for choice in tried]
    return tried[min(np.flatnonzero(equal), key=lambda place: abs(place - PLAIN))]


def _choose_without_left_out(
    images: LabelledSet, gaussians: GaussianFit, text: Array, logit_scale: float, prior: Prior
) -> _Choice:
    """Choose where every class has one image: the words' shares by their own loss, that of the Gaussians by prior."""
    with host_products():
        plain = logit_scale * images.embeddings.astype(np.float64) @ text.T
    named = gaussians.text_classifier(text).logits(images.embeddings)
    words = Prior(prior.centres[[0, 2]], prior.widths[[0, 2]])
    found = choose_shares(np.stack([plain, named]), images.labels, words)
    return _Choice(gaussians, np.array([found.values[0], prior.centres[1], found.values[1]]), found.loss)


def _choose_words_alone(images: LabelledSet, gaussians: GaussianFit, text: Array, logit_scale: float) -> _Choice:
    """Choose the words' share by their own loss, and none of what was learned from images."""
    with host_products():
        plain = logit_scale * images.embeddings.astype(np.float64) @ text.T
    prior = make_prior(len(images.labels) / len(text))
    found = choose_shares(plain[None], images.labels, Prior(prior.centres[:1], prior.widths[:1]))
    return _Choice(gaussians, np.array([found.values[0], 0.0, 0.0]), found.loss)


def _assemble(
    choice: _Choice, images: LabelledSet, text: Array, logit_scale: float, judged: npt.NDArray[np.integer]
) -> FittedHead:
    """Return the head of a choice, with what it says of left-out images."""
    gaussians, (share, image, named) = choice.gaussians, choice.shares.tolist()
    left_out, distances = _leave_each_out(choice, images, text)
    density, by_text = gaussians.classifier(), gaussians.text_classifier(text)
    rest = Linear(image * density.weights + named * by_text.weights, image * density.bias + named * by_text.bias)
    guard, plain = make_guard(gaussians, distances[judged]), logit_scale * text
    told = judge(
        images.embeddings[judged],
        images.labels[judged],
        plain,
        share * plain,
        left_out=left_out[judged],
        distances=distances[judged],
        guard=guard,
    )
    head = Head(
        kind="gda",
        weight=_as_float32(share * plain + rest.weights),
        bias=_as_float32(rest.bias),
        guard=guard,
        text_share=share,
        image_share=image,
        named_share=named,
        distances=_as_float32(np.sort(distances[judged])),
        scores=_as_float32(told.scores),
    )
    of_left_out = (told.accuracy, told.zero_shot_accuracy, told.right)
    return FittedHead(head, images, gaussians, text, logit_scale, rest, left_out, distances, judged, *of_left_out)


def _leave_each_out(choice: _Choice, images: LabelledSet, text: Array) -> tuple[npt.NDArray[np.float32], Array]:
    """Return what the Gaussians add to each image's logits without that image, [N, K], and its distances, [N]."""
    _, image, named = choice.shares.tolist()
    left_out, distances = np.zeros((len(images.labels), len(text)), np.float32), np.zeros(len(images.labels))
    for rows in blocks(len(images.labels)):
        found = choice.gaussians.leave_out(np.arange(rows.start, rows.stop), text)
        distances[rows] = found.distances
        if image:
            left_out[rows] = image * found.logits + named * found.text
    return left_out, distances


def _as_float32(values: Array) -> mx.array:
    return mx.array(values.astype(np.float32))
