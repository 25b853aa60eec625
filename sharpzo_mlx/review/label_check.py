"""Find labels that look wrong, and pictures that are there twice, in a labelled data set.

Each image is judged by a classifier of all others (`left_out`). Its label is suspected if another class is 30 times as
probable, and suspects are ranked by the probability of their label, the least first. That is the ranking by
self-confidence of Northcutt, Jiang and Chuang ("Confident Learning", JAIR 2021); their thresholds, the mean
self-confidence of each class, named several times as many right labels here (docs/results/labels.md).

>>> found = check_labels(sz.load("m"), "pets/")  # doctest: +SKIP
>>> found.suspects[0].path, found.suspects[0].given, found.suspects[0].suggested  # doctest: +SKIP
(PosixPath('pets/train/cat/0041.jpg'), 'cat', 'dog')
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.templates import PLAIN
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.extract import EncodeProgress, Features, encode_steps
from sharpzo_mlx.files import expand
from sharpzo_mlx.prompts.ensemble import template_features
from sharpzo_mlx.review.covering import centre
from sharpzo_mlx.review.labelled_folder import LabelledFolder, Part, read_labelled
from sharpzo_mlx.review.left_out import judge_left_out
from sharpzo_mlx.review.suggestions import name_choices
from sharpzo_mlx.review.twins import find_twins
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.runtime.products import host_products

ODDS = 30.0
NEIGHBOURS = 2


@dataclass(frozen=True)
class Neighbour:
    """A labelled image of the suggested class that is like a suspect: its file, and the cosine of centred features."""

    path: Path
    similarity: float


@dataclass(frozen=True)
class Suspect:
    """An image whose label looks wrong.

    Attributes:
        path: the file.
        part: the split and the folder that it lies in.
        given: its label, the name of a class.
        suggested: the class that the other images suggest.
        given_probability: of the label, when the image is left out, 0..1.
        suggested_probability: of the suggested class.
        choices: up to nine class names with their probabilities, the likeliest first; the label is among them.
        neighbours: the images of the suggested class that are most like it, at most two.
    """

    path: Path
    part: Part
    given: str
    suggested: str
    given_probability: float
    suggested_probability: float
    choices: tuple[tuple[str, float], ...]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Duplicate:
    """Two files that show the same picture.

    Attributes:
        path: the file.
        other: the other one, of an earlier split or earlier in the same.
        split, other_split: "train", "val", "test", or empty.
        label, other_label: names of their classes.
        same_content: whether they are equal to the last byte.
        similarity: the cosine of their centred features.
    """

    path: Path
    other: Path
    split: str
    other_split: str
    label: str
    other_label: str
    same_content: bool
    similarity: float

    @property
    def matters(self) -> bool:
        """Whether the pair lies across splits or has two labels, and not merely twice in one class."""
        return self.split != self.other_split or self.label != self.other_label


@dataclass(frozen=True)
class LabelCheck:
    """What a check of labels found.

    Attributes:
        folder: the data set.
        images: how many could be read.
        agreement: the share of labels that the classifier of all other images gives too, 0..1.
        suspects: labels that look wrong, the most doubtful first.
        duplicates: pairs, those across splits or with two labels first.
        class_names: the classes.
        class_folders: the names of their folders, in the same order.
        by_folder: whether moving a file into another class folder corrects its label.
    """

    folder: Path
    images: int
    agreement: float
    suspects: tuple[Suspect, ...]
    duplicates: tuple[Duplicate, ...]
    class_names: tuple[str, ...]
    class_folders: tuple[str, ...]
    by_folder: bool


def check_labels(
    source: Clip | Run | str | Path, dataset: str | Path, *, odds: float = ODDS, clip: Clip | None = None
) -> LabelCheck:
    """Check the labels of a data set.

    Args:
        source: a checkpoint, or a run or its folder: then its checkpoint and its templates.
        dataset: a folder of class folders, or of `train/`, `val/` and `test/` with such folders.
        odds: how many times as probable as the label another class must be.
        clip: the checkpoint of the run; None loads the one that the run names.

    Raises:
        UserError: the data set cannot be used, or `odds` is below 1.
    """
    for event in check_labels_steps(source, dataset, odds=odds, clip=clip):
        if isinstance(event, LabelCheck):
            return event
    raise AssertionError("check_labels_steps ends with the check")


def check_labels_steps(
    source: Clip | Run | str | Path, dataset: str | Path, *, odds: float = ODDS, clip: Clip | None = None
) -> Iterator[EncodeProgress | LabelCheck]:
    """Do what `check_labels` does; yield the progress of encoding, and the check at the end."""
    if not odds >= 1:
        raise UserError(f"odds {odds:g}: at least 1")
    clip, templates = _open(source, clip)
    labelled, place = read_labelled(dataset), expand(dataset)
    features = yield from encode_steps(clip, labelled.images)
    labelled, features = _without_unread(labelled, features)
    clip.release_vision()
    words = template_features(clip, templates, features.class_names)
    answers = judge_left_out(words, clip.logit_scale, features)
    yield LabelCheck(
        folder=place if place.is_dir() else place.parent,
        images=len(features.labels),
        agreement=answers.accuracy,
        suspects=_find_suspects(labelled, features, answers.probabilities, odds),
        duplicates=_find_duplicates(labelled, features),
        class_names=features.class_names,
        class_folders=features.folders,
        by_folder=labelled.by_folder,
    )


def _open(source: Clip | Run | str | Path, clip: Clip | None) -> tuple[Clip, tuple[str, ...]]:
    if isinstance(source, Clip):
        return source, (PLAIN,)
    run = source if isinstance(source, Run) else Run.load(source)
    return open_model(run, clip), run.record.templates or (run.config.template or PLAIN,)


def _without_unread(labelled: LabelledFolder, features: Features) -> tuple[LabelledFolder, Features]:
    """Return both without the images that cannot be read, and without classes that have no others."""
    read = set(features.paths)
    start, parts = 0, []
    for part in labelled.parts:
        paths = labelled.images.paths[start : start + part.images]
        start += part.images
        parts.append(replace(part, images=sum(path in read for path in paths)))
    kept = np.unique(features.labels)
    if len(kept) < 2:
        raise UserError("labels are checked among two or more classes, and only one has a readable image")
    features = replace(
        features,
        labels=np.searchsorted(kept, features.labels).astype(np.int32),
        class_names=tuple(features.class_names[k] for k in kept),
        folders=tuple(features.folders[k] for k in kept),
    )
    return replace(labelled, parts=tuple(parts)), features


def find_wrong(probabilities: np.ndarray, labels: np.ndarray, odds: float = ODDS) -> np.ndarray:
    """Return the rows of images whose label looks wrong, the most doubtful first.

    Args:
        probabilities: of each class for each image when it is left out [N, K].
        labels: [N].
        odds: how many times as probable as the label another class must be.
    """
    own = probabilities[np.arange(len(labels)), labels]
    doubted = (probabilities.max(axis=1) >= odds * own) & (probabilities.argmax(axis=1) != labels)
    order = np.argsort(own, kind="stable")
    found: np.ndarray = order[doubted[order]]
    return found


def _find_suspects(
    labelled: LabelledFolder, features: Features, probabilities: np.ndarray, odds: float
) -> tuple[Suspect, ...]:
    rows, names = find_wrong(probabilities, features.labels, odds), features.class_names
    counts = np.bincount(features.labels, minlength=len(names))
    if alone := int((counts == 1).sum()):
        notify(f"{alone} classes have one image, which the words alone judge")
    centred = centre(np.array(features.embeddings))
    found = []
    for row in rows.tolist():
        given, suggested = int(features.labels[row]), int(probabilities[row].argmax())
        choices = name_choices(probabilities[row], names)
        if names[given] not in dict(choices):
            choices = (*choices[:-1], (names[given], float(probabilities[row, given])))
        found.append(
            Suspect(
                path=features.paths[row],
                part=labelled.part_of(row),
                given=names[given],
                suggested=names[suggested],
                given_probability=float(probabilities[row, given]),
                suggested_probability=float(probabilities[row, suggested]),
                choices=choices,
                neighbours=_find_neighbours(features, centred, row, suggested),
            )
        )
    return tuple(found)


def _find_neighbours(features: Features, centred: np.ndarray, row: int, label: int) -> tuple[Neighbour, ...]:
    others = np.flatnonzero((features.labels == label) & (np.arange(len(centred)) != row))
    with host_products():
        cosines = centred[others] @ centred[row]
    nearest = np.argsort(-cosines, kind="stable")[:NEIGHBOURS].tolist()
    return tuple(Neighbour(features.paths[others[place]], float(cosines[place])) for place in nearest)


def _find_duplicates(labelled: LabelledFolder, features: Features) -> tuple[Duplicate, ...]:
    labels, names = features.labels, features.class_names
    splits = [part.name for part in labelled.parts for _ in range(part.images)]

    def matters(row: int, other: int) -> bool:
        return splits[row] != splits[other] or labels[row] != labels[other]

    pairs = [
        Duplicate(
            path=features.paths[twin.row],
            other=features.paths[twin.other],
            split=splits[twin.row],
            other_split=splits[twin.other],
            label=names[labels[twin.row]],
            other_label=names[labels[twin.other]],
            same_content=twin.same_content,
            similarity=twin.similarity,
        )
        for twin in find_twins(np.array(features.embeddings), features.paths, matters)
    ]
    return tuple(sorted(pairs, key=lambda pair: (not pair.matters, not pair.same_content, -pair.similarity)))
