"""Label single images with a run.

>>> predict("runs/photo-m-0", "new.jpg", top=2)[0].labels  # doctest: +SKIP
(('dog', 0.91), ('horse', 0.05))
>>> predict("runs/photo-siglip-0", "new.jpg", multi_label=True)[0].labels  # doctest: +SKIP
(('dog', 0.83), ('ball', 0.62))
>>> predict("runs/photo-m-0", "screenshot.png", reject=0.05)[0].rejected  # doctest: +SKIP
True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.digests import report_cloud_only
from sharpzo_mlx.files import refuse_empty
from sharpzo_mlx.heads.answers import Answers, choose_sets, make_answers
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run

LIKELY = 0.5  # a label of its own probability is given from here on


@dataclass(frozen=True)
class Prediction:
    """The labels of one image.

    Attributes:
        path: the file.
        labels: (class name, probability 0..1), the most probable first; empty where the image cannot be read.
        error: the reason, where it cannot be read.
        rejected: whether the image is called none of the classes, where that or labels of their own probability were
            asked; the labels are best guesses.
    """

    path: Path
    labels: tuple[tuple[str, float], ...]
    error: str | None = None
    rejected: bool = False


def predict(
    run: Run | str | Path,
    paths: str | Path | Sequence[str | Path],
    *,
    top: int = 1,
    clip: Clip | None = None,
    reject: float | None = None,
    coverage: float | None = None,
    multi_label: bool = False,
) -> list[Prediction]:
    """Return the most probable labels of image files.

    Args:
        run: the run or its folder.
        paths: one image file, or several.
        top: labels for each image, at most the number of classes.
        clip: the checkpoint; None loads the one that the run names.
        reject: the rate, between 0 and 1, at which images of the labelled kind may wrongly be called none of the
            classes; None calls no image so.
        coverage: the share, between 0 and 1, of images of the labelled kind whose own class is to be among the labels:
            each image gets as many labels as that takes, whatever `top` says; None for `top` labels.
        multi_label: give each label the probability that it fits by itself, from a SigLIP's own summand of logits, and
            each image all labels of one half or more, whatever `top` says; an image without one is none of the classes.

    Returns:
        One prediction for each path, in order.

    Raises:
        UserError: no image is given, `top` is below 1, a rate is not between 0 and 1, one is given and the run has no
            head, or `multi_label` is given with a rate or for a CLIP.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    if top < 1 or not paths:
        raise UserError(f"top {top}: at least 1" if top < 1 else "no image to predict: name at least one file")
    refuse_empty(*paths)
    choice = _MultiLabel.of(run, reject, coverage) if multi_label else _Choice.of(run, top, reject, coverage)
    clip = open_model(run, clip)
    report_cloud_only(map(Path, paths))
    found: dict[int, Prediction] = {}
    size = min(clip.image_batch, len(paths))
    batches = stream(paths, clip.config.preprocessor, batch_size=size)
    for batch, features in clip.encode_batches(batches, size):
        for index, reason in batch.failed:
            found[index] = Prediction(Path(paths[index]), (), reason)
        if batch.indices:
            answered = choice.answer(features)
            for index, (labels, rejected) in zip(batch.indices, answered, strict=True):
                found[index] = Prediction(Path(paths[index]), labels, rejected=rejected)
    return [found[index] for index in range(len(paths))]


Answered = list[tuple[tuple[tuple[str, float], ...], bool]]


@dataclass(frozen=True)
class _MultiLabel:
    """Labels with a probability each; those that are likelier than not are given."""

    prompt: Prompt

    @classmethod
    def of(cls, run: Run, reject: float | None, coverage: float | None) -> _MultiLabel:
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
class _Choice:
    """What was asked: how many labels, or sets of labels, and whether an image may be none of the classes."""

    prompt: Prompt
    top: int
    rejecting: Answers | None  # None: no image is turned away
    covering: Answers | None  # None: `top` labels

    @classmethod
    def of(cls, run: Run, top: int, reject: float | None, coverage: float | None) -> _Choice:
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
