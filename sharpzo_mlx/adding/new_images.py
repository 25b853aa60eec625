"""Read the folders that are added to a run: which images are new to it, and which classes.

An image is known by its content. One that the run has learned from counts once, and one of its test split is left out,
because accuracy on images that were learned from says nothing. A folder is a known class if its name is that class's
but for capitals and underscores; otherwise it is a new one, and a notice names a known class that is spelt nearly so.

>>> added = finish(read_new_images(clip, run, labelled, ["more/"], ["red panda"]))  # doctest: +SKIP
>>> added.features.class_names, added.named  # doctest: +SKIP
(('cat', 'dog', 'fox', 'red panda'), ('red panda',))
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.image_set import ImageSet, nfc
from sharpzo_mlx.datasets.listed import has_list
from sharpzo_mlx.datasets.matching import ClassIndex
from sharpzo_mlx.datasets.names import plain_name, same_name
from sharpzo_mlx.datasets.rows import UNDIVIDED
from sharpzo_mlx.datasets.splits import read_splits
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.files import expand
from sharpzo_mlx.runs.labelled import LabelledImages
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning.encoding import Encoding, encode_split

ALIKE = 0.84  # similarity of two names from which one may be a slip of the other
NAMED = 5  # a notice names this many folders


@dataclass(frozen=True)
class NewImages:
    """What is added to a run.

    Attributes:
        features: the images that are new to it, none or more; their classes are all classes of the run, old ones first.
        classes: the names of the new classes that have images.
        named: those that have a name alone.
    """

    features: Features
    classes: tuple[str, ...]
    named: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        """Whether neither an image nor a class is new to the run."""
        return not (len(self.features.labels) or self.classes or self.named)


class _Classes:
    """The classes of a run, to which new ones are added at the end."""

    def __init__(self, names: Iterable[str], folders: Iterable[str]) -> None:
        self.names, self.folders = list(names), list(folders)
        self._known = len(self.names)
        self._index = ClassIndex(self.names, self.folders)

    @property
    def added(self) -> tuple[str, ...]:
        """The names of the new classes."""
        return tuple(self.names[self._known :])

    def find(self, name: str, folder: str) -> int | None:
        """Return the label of a class, or None if there is none of that name."""
        return self._index.find(name, folder)

    def find_or_add(self, name: str, folder: str) -> int:
        """Return the label of a class, which is made if there is none of that name; a notice says what is unsure."""
        label = self.find(name, folder)
        if label is None:
            self._report_alike(name)
            label = self._index.add(name, folder)
            self.names.append(name)
            self.folders.append(folder)
        elif label < self._known and folder not in (nfc(self.folders[label]), self.names[label]):
            notify(f"{folder}: taken for the class {self.names[label]!r} of the run; rename it if it is another")
        return label

    def _report_alike(self, name: str) -> None:
        names = {same_name(own): own for own in self.names[: self._known]}
        word = same_name(name)
        swapped = [own for own in names if sorted(own) == sorted(word)]  # a slip that weighs much in a short name
        if alike := swapped or difflib.get_close_matches(word, names, n=1, cutoff=ALIKE):
            notify(f"{name}: a new class; did you mean {names[alike[0]]!r}? Then go back with --back and rename it")


def read_new_images(
    clip: Clip, run: Run, labelled: LabelledImages | None, folders: Sequence[Path], names: Sequence[str]
) -> Generator[Encoding, None, NewImages]:
    """Read folders and class names.

    Args:
        clip: the checkpoint.
        run: the run.
        labelled: its labelled images; None for a run that can learn no images.
        folders: each with one folder of images for each class.
        names: classes to add by name alone.

    Raises:
        UserError: a folder cannot be read, or a name is empty.
    """
    classes = _Classes(run.record.class_names, run.record.class_folders)
    sets = [_read_labelled(folder) for folder in folders]  # all of them before the first image is opened
    names = _keep_new_names(run, classes, names)
    parts: list[Features] = []
    for folder, images in zip(folders, sets, strict=True):
        found = yield from encode_split(clip, images, "added")
        assert labelled is not None, "folders are refused without"
        earlier = [digest for part in parts for digest in part.digests]
        found = _keep_new(folder, found, labelled, earlier)
        labels = [classes.find_or_add(found.class_names[k], found.folders[k]) for k in found.labels.tolist()]
        parts.append(replace(found, labels=np.array(labels, np.int32)))
    with_images = classes.added
    for name in names:
        if classes.find(name, nfc(name)) is not None:
            notify(f"{name}: has images among those that are added, so --class does nothing")
        else:
            classes.find_or_add(name, nfc(name))
    return NewImages(_join(clip, parts, classes), with_images, classes.added[len(with_images) :])


def _read_labelled(folder: Path) -> ImageSet:
    """Return the images of a folder; of a data set that a list divides those for training, for others may be judged on.

    Raises:
        UserError: see `read_folder`; a divided list has no images for training.
    """
    place = expand(folder)
    if not place.exists() or not has_list(place):
        return read_folder(folder)
    sets = read_splits(folder)
    if UNDIVIDED in sets:
        return sets[UNDIVIDED]
    if "train" not in sets:
        raise UserError(f"{folder}: holds {' and '.join(sets)} images but none for training; add some")
    if others := [name for name in sets if name != "train"]:
        notify(f"{folder}: its train images; those of {' and '.join(others)} are left out")
    return sets["train"]


def _keep_new_names(run: Run, classes: _Classes, names: Sequence[str]) -> list[str]:
    """Return the names that the run has not; a notice names the others."""
    kept: dict[str, str] = {}
    for name in names:
        if not name:
            raise UserError("--class is empty: name a class, such as 'red panda'")
        if (label := classes.find(name, nfc(name))) is not None:
            notify(f"--class {name}: {run.folder} has this class already, {classes.names[label]!r}")
        else:
            kept.setdefault(same_name(name), name)
    return list(kept.values())


def clean_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names as prompts use them: underscores are spaces."""
    return tuple(plain_name(name) if name.strip() else "" for name in names)


def _keep_new(folder: Path, found: Features, labelled: LabelledImages, earlier: Iterable[bytes]) -> Features:
    """Return the images that the run does not have, each once; notices say what is left out, and why."""
    test, known = set(labelled.test_digests), set(labelled.digests)
    seen, kept, counts = {*earlier}, [], Counter[str]()
    for row, digest in enumerate(found.digests):
        if digest in test:
            counts["test"] += 1
        elif digest in known:
            counts["known"] += 1
        elif digest in seen:
            counts["twice"] += 1
        else:
            seen.add(digest)
            kept.append(row)
    total = len(found.digests)
    if counts["test"]:
        notify(f"{folder}: {counts['test']} of {total} images are in the run's test split and are left out")
    if counts["known"]:
        notify(
            f"{folder}: {counts['known']} of {total} images are in the run already; they count once, as labelled there"
        )
    if counts["twice"]:
        notify(f"{folder}: {counts['twice']} of {total} images are there more than once and count once")
    lost = sorted(set(found.labels.tolist()) - set(found.labels[kept].tolist()))
    if kept and lost:
        notify(f"{folder}: no new image in {_list([found.folders[label] for label in lost])}")
    return found.take(kept)


def _join(clip: Clip, parts: Sequence[Features], classes: _Classes) -> Features:
    """Return the images of all folders, with all classes."""
    empty = mx.zeros((0, clip.config.projection_dim))
    return Features(
        embeddings=mx.concatenate([empty, *(part.embeddings for part in parts)]),
        labels=np.concatenate([np.zeros(0, np.int32), *(part.labels for part in parts)]).astype(np.int32),
        class_names=tuple(classes.names),
        folders=tuple(classes.folders),
        paths=tuple(path for part in parts for path in part.paths),
        digests=tuple(digest for part in parts for digest in part.digests),
    )


def _list(items: Sequence[object]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(str(item) for item in items[:NAMED]) + more
