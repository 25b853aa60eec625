"""Label image files with a run: a few at once, or any number batch by batch.

>>> predict("runs/photo-m-0", "new.jpg", top=2)[0].labels  # doctest: +SKIP
(('dog', 0.91), ('horse', 0.05))
>>> predict("runs/photo-siglip-0", "new.jpg", multi_label=True)[0].labels  # doctest: +SKIP
(('dog', 0.83), ('ball', 0.62))
>>> for batch in predict_steps("runs/photo-m-0", ["holiday/"], reject=0.05):  # doctest: +SKIP
...     print([prediction.path for prediction in batch if prediction.rejected])
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.listing import ImageListing
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.evaluation.labels import Choice, MultiLabel
from sharpzo_mlx.features.streaming import Encoded, encode_stream
from sharpzo_mlx.files import refuse_empty
from sharpzo_mlx.hub.runs import load_run
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime.helpers import helped_at


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
    cluster: str | None = None,
) -> list[Prediction]:
    """Return the most probable labels of image files; `predict_steps` labels more of them than fit in memory.

    Args:
        run: the run or its folder.
        paths: one image file, folder of images or file that lists or stores images (`datasets.listed`), or several.
        top: labels for each image, at most the number of classes.
        clip: the checkpoint; None loads the one that the run names.
        reject: the rate, between 0 and 1, at which images of the labelled kind may wrongly be called none of the
            classes; None calls no image so.
        coverage: the share, between 0 and 1, of images of the labelled kind whose own class is to be among the labels:
            each image gets as many labels as that takes, whatever `top` says; None for `top` labels.
        multi_label: give each label the probability that it fits by itself, from a SigLIP's own summand of logits, and
            each image all labels of one half or more, whatever `top` says; an image without one is none of the classes.
        cluster: workers that help: `local:N` or an address, as `open_cluster` takes it; None for no others.

    Returns:
        One prediction for each image, in order; those of a folder by their names.

    Raises:
        UserError: no image is given, `top` is below 1, a rate is not between 0 and 1, one is given and the run has no
            head, or `multi_label` is given with a rate or for a CLIP.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    refuse_empty(*paths)
    steps = predict_steps(run, paths, top=top, clip=clip, reject=reject, coverage=coverage, multi_label=multi_label)
    with helped_at(cluster):
        return [prediction for batch in steps for prediction in batch]


def predict_steps(
    run: Run | str | Path,
    paths: Iterable[str | Path],
    *,
    top: int = 1,
    clip: Clip | None = None,
    reject: float | None = None,
    coverage: float | None = None,
    multi_label: bool = False,
    recursive: bool = False,
    skip: Callable[[Path], bool] | None = None,
) -> Generator[list[Prediction], None, None]:
    """Label any number of image files in bounded memory; the features come from the cache where they are there.

    Args:
        run: the run or its folder.
        paths: image files, folders of images and files that list or store images; may be a generator, of which some
            hundred files are taken ahead.
        top: see `predict`, as for the other arguments.
        clip: the checkpoint; None loads the one that the run names.
        reject: the rate of wrong rejections.
        coverage: the share of right sets of labels.
        multi_label: labels that do not exclude each other.
        recursive: whether folders inside folders are read too.
        skip: says of a file whether it is passed over, such as one that was labelled before.

    Yields:
        The predictions of a batch, when it is done. All batches hold one for each file, in order. At the end a notice
        says what was left out of folders.

    Raises:
        UserError: see `predict`; no image is among the paths, or a folder cannot be read.
    """
    if top < 1:
        raise UserError(f"top {top}: at least 1")
    run = run if isinstance(run, Run) else load_run(run)
    choice = MultiLabel.of(run, reject, coverage) if multi_label else Choice.of(run, top, reject, coverage)
    listing = ImageListing(paths, recursive=recursive)
    return _label(choice, open_model(run, clip), listing, skip or (lambda _: False))


def _label(
    choice: Choice | MultiLabel, clip: Clip, listing: ImageListing, skip: Callable[[Path], bool]
) -> Generator[list[Prediction], None, None]:
    for batch in encode_stream(clip, (path for path in listing if not skip(path))):
        yield _predict_batch(choice, batch)
    left_out = listing.describe_left_out()
    if not listing.count:
        raise UserError(f"no image to predict: {f'left out: {left_out}' if left_out else 'name at least one file'}")
    if left_out:
        notify(f"left out of folders: {left_out}")


def _predict_batch(choice: Choice | MultiLabel, batch: Encoded) -> list[Prediction]:
    rows = [feature for _, feature in batch if not isinstance(feature, str)]
    answers = iter(choice.answer(mx.array(np.stack(rows))) if rows else ())
    predictions = []
    for path, feature in batch:
        if isinstance(feature, str):
            predictions.append(Prediction(path, (), feature))
        else:
            labels, rejected = next(answers)
            predictions.append(Prediction(path, labels, rejected=rejected))
    return predictions
