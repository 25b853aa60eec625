"""Suggest which unlabelled images a person should label next, with the label that a run guesses.

An image is worth labelling if the run is uncertain of it and of others like it, and no labelled image is like it
(`covering`). Uncertainty is 1 less the difference of the two highest probabilities.

>>> found = suggest("runs/pets-clip-0", "new/", count=20)  # doctest: +SKIP
>>> found.items[0].path, found.items[0].label, found.items[0].uncertainty  # doctest: +SKIP
(PosixPath('new/0183.jpg'), 'beagle', 0.97)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.folder import checked_folder
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.listing import ImageListing
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.extract import encode_steps, finish
from sharpzo_mlx.features.skipped import report_skipped
from sharpzo_mlx.features.streaming import encode_stream
from sharpzo_mlx.files import identify, root_of
from sharpzo_mlx.heads.answers import REJECTION, make_answers
from sharpzo_mlx.images.stored import is_there, split_stored
from sharpzo_mlx.review.covering import choose_covering
from sharpzo_mlx.runs.history import labelled_path
from sharpzo_mlx.runs.labelled import LabelledImages
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run

CHOICES = 9  # labels of an image that are named, the likeliest first


@dataclass(frozen=True)
class Suggestion:
    """An image that is worth labelling.

    Attributes:
        path: the file.
        choices: up to nine class names with their probabilities 0..1, the likeliest first.
        uncertainty: 1 less the difference of the two highest probabilities, 0..1.
        foreign: whether it is unlike all labelled images, as `predict --reject 0.05` says.
    """

    path: Path
    choices: tuple[tuple[str, float], ...]
    uncertainty: float
    foreign: bool

    @property
    def label(self) -> str:
        """The class that the run guesses."""
        return self.choices[0][0]

    @property
    def probability(self) -> float:
        """The probability of the guess."""
        return self.choices[0][1]


@dataclass(frozen=True)
class Suggestions:
    """The images of a folder that are worth labelling, the first first.

    Attributes:
        folder: the folder, or the file that lists or stores the images.
        items: the suggestions.
        images: unlabelled images that were looked at.
        known: labelled images of the run that they were compared with.
        class_names: the run's classes.
        class_folders: the names of their folders, in the same order.
    """

    folder: Path
    items: tuple[Suggestion, ...]
    images: int
    known: int
    class_names: tuple[str, ...]
    class_folders: tuple[str, ...]

    @property
    def listed(self) -> bool:
        """Whether a file lists or stores the images, so that `sort` cannot move them."""
        return not self.folder.is_dir() or any(split_stored(item.path) for item in self.items)


@dataclass(frozen=True)
class Looked:
    """So many images of the folder have been looked at."""

    done: int


def suggest(
    run: Run | str | Path,
    folder: str | Path,
    count: int = 50,
    *,
    clip: Clip | None = None,
    recursive: bool = False,
) -> Suggestions:
    """Suggest images to label next.

    Args:
        run: the run or its folder.
        folder: unlabelled images, or a file that lists or stores them, see `datasets.listed`; those that the run
            learned from are left out.
        count: how many to suggest; fewer are where no other image would tell anything new.
        clip: the checkpoint; None loads the one that the run names.
        recursive: whether folders inside are read too.

    Raises:
        UserError: `count` is below 1, or there is no image to look at.
    """
    for event in suggest_steps(run, folder, count, clip=clip, recursive=recursive):
        if isinstance(event, Suggestions):
            return event
    raise AssertionError("suggest_steps ends with the suggestions")


def suggest_steps(
    run: Run | str | Path,
    folder: str | Path,
    count: int = 50,
    *,
    clip: Clip | None = None,
    recursive: bool = False,
) -> Iterator[Looked | Suggestions]:
    """Do what `suggest` does; yield the progress a batch at a time, and the suggestions at the end."""
    if count < 1:
        raise UserError(f"count {count}: at least 1")
    run = run if isinstance(run, Run) else Run.load(run)
    place, clip = checked_folder(folder), open_model(run, clip)
    used = {identify(path) for path in _labelled_paths(run)}
    listing = ImageListing([place], recursive=recursive)
    paths: list[Path] = []
    rows: list[np.ndarray] = []
    failed: list[tuple[Path, str]] = []
    for batch in encode_stream(clip, (path for path in listing if identify(path) not in used)):
        for path, feature in batch:
            if isinstance(feature, str):
                failed.append((path, feature))
            else:
                paths.append(path)
                rows.append(feature)
        yield Looked(len(paths) + len(failed))
    _report(place, listing, failed, images=len(paths))
    known = _known_features(clip, run)
    yield Suggestions(
        folder=place,
        items=_choose(run, paths, np.stack(rows), known, count),
        images=len(paths),
        known=len(known),
        class_names=run.prompt.class_names,
        class_folders=run.prompt.folders,
    )


def _labelled_paths(run: Run) -> list[Path]:
    return [root_of(run.record.dataset) / path for path, _ in run.record.images.labelled()]


def _known_features(clip: Clip, run: Run) -> np.ndarray:
    """Return the features of the images that the run learned from: those that it kept, else of those still there."""
    if labelled_path(run).is_file():
        return LabelledImages.read(labelled_path(run), len(run.record.class_names)).images.embeddings
    listed = _labelled_paths(run)
    there = tuple(path for path in listed if is_there(path))
    if len(there) < len(listed):
        gone = f"{len(listed) - len(there)} of {len(listed)} images of the run are gone"
        notify(f"{run.record.dataset}: {gone}; images like them may be suggested")
    names = run.record.class_names
    images = ImageSet(there, (0,) * len(there), names, names)
    return np.array(finish(encode_steps(clip, images, whole=False)).embeddings)


def _report(folder: Path, listing: ImageListing, failed: list[tuple[Path, str]], *, images: int) -> None:
    """Give notices of what was left out; UserError if nothing is left."""
    left_out = listing.describe_left_out()
    report_skipped(failed)
    if not images:
        words = f"left out: {left_out}" if left_out else "name a folder with images that the run has not learned from"
        raise UserError(f"{folder}: no unlabelled image to look at; {words}")
    if left_out:
        notify(f"left out of folders: {left_out}")


def _choose(run: Run, paths: list[Path], features: np.ndarray, known: np.ndarray, count: int) -> tuple[Suggestion, ...]:
    probabilities = np.array(mx.softmax(run.prompt.logits(mx.array(features)), axis=-1, precise=True), np.float64)
    uncertainty = measure_uncertainty(probabilities)
    chosen = [choice.row for choice in choose_covering(features, uncertainty, known, count)]
    foreign = np.zeros(len(chosen), bool)
    if run.prompt.head is not None and chosen:
        foreign = make_answers(run.prompt, run.folder, REJECTION, None).reject(mx.array(features[chosen]))
    return tuple(
        Suggestion(
            paths[row], name_choices(probabilities[row], run.prompt.class_names), float(uncertainty[row]), bool(far)
        )
        for row, far in zip(chosen, foreign, strict=True)
    )


def measure_uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """Return 1 less the difference of the two highest probabilities, [N, K] -> [N]."""
    two = np.sort(probabilities, axis=1)[:, -2:]
    found: np.ndarray = 1 - (two[:, -1] - two[:, 0])
    return found


def name_choices(row: np.ndarray, names: tuple[str, ...], most: int = CHOICES) -> tuple[tuple[str, float], ...]:
    """Return the likeliest class names with their probabilities, [K] -> up to `most`."""
    return tuple((names[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:most].tolist())
