"""Folders of images that belong to none of the classes: how many are turned away, and how well distance tells them.

>>> evaluate(run, "photos/test", foreign="screenshots/").foreign[0].rejected  # doctest: +SKIP
0.97
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.folder import checked_folder
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.listed import FILES, is_listed_file
from sharpzo_mlx.datasets.listing import ImageListing
from sharpzo_mlx.datasets.path_list import PathList
from sharpzo_mlx.datasets.shards import refuse_compressed
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.evaluation.answered import mean_opening, measure_distances, separation
from sharpzo_mlx.evaluation.overlap import UsedImages
from sharpzo_mlx.features.extract import check_readable, encode_steps, relay
from sharpzo_mlx.files import expand, root_of
from sharpzo_mlx.heads.answers import Answers
from sharpzo_mlx.runs.json_record import Count, JsonRecord, PathText, Share
from sharpzo_mlx.runs.run import Run


@dataclass(frozen=True)
class ForeignEntry(JsonRecord):
    """One foreign folder as JSON holds it; the fields are those of ForeignResult."""

    path: PathText
    foreign: Literal[True]
    images: Count
    unreadable: Count
    rejected: Share
    stated_rejection: Share
    opening: Share
    auroc: Share
    version: Count | None = None


@dataclass(frozen=True)
class ForeignResult:
    """What a run says of images that belong to none of its classes; shares are 0..1.

    Attributes:
        path: the folder.
        images: how many could be read.
        unreadable: how many could not.
        rejected: share of images that are called none of the classes.
        stated_rejection: the stated rate of that for images of the labelled kind.
        opening: mean opening of the guard.
        auroc: the probability that one of these images is farther from what was learned than one of the run's own
            classes; own images are those of the folders in distribution, or of all folders if none is.
        distances: [images] float32.
    """

    path: Path
    images: int
    unreadable: int
    rejected: float
    stated_rejection: float
    opening: float
    auroc: float
    distances: np.ndarray = field(repr=False, compare=False)

    def to_entry(self, path: Path | None = None) -> ForeignEntry:
        """Return the result as JSON holds it, with another spelling of its path if one is given."""
        return ForeignEntry(
            path=str(path or self.path),
            foreign=True,
            images=self.images,
            unreadable=self.unreadable,
            rejected=self.rejected,
            stated_rejection=self.stated_rejection,
            opening=self.opening,
            auroc=self.auroc,
        )


def find_images(place: str | Path) -> ImageSet:
    """Return all images of a folder and of the folders inside it, or of a file, as one class without a meaning.

    Args:
        place: a folder, or a file that lists or stores images, see `datasets.listed`.

    Raises:
        UserError: there is no such folder or file, or it holds no image.
    """
    path = expand(place)
    if path.is_file() and not is_listed_file(path):
        refuse_compressed(path)
        raise UserError(f"{path}: a file; name the folder of the foreign images, or a list ({', '.join(FILES)})")
    checked = checked_folder(place)
    folder = checked if checked.is_dir() else checked.parent
    images = ImageListing([path], recursive=True)
    names = [str(one.relative_to(folder) if one.is_relative_to(folder) else one) for one in images]
    if not names:
        raise UserError(f"{path}: no images in it; name a folder of images that belong to none of the classes")
    return ImageSet(PathList(folder, names), (0,) * len(names), ("foreign",), (path.name or "foreign",))


def report_own_images(run: Run, evaluated: Iterable[ImageSet], images: ImageSet, *, path: Path) -> None:
    """Give a notice where a foreign folder holds images of the run's classes; none where it holds no such image.

    Args:
        run: the run.
        evaluated: the images that are evaluated as the run's classes.
        images: what `find_images` returned.
        path: the folder as the user named it.
    """
    root, drawn = root_of(run.record.dataset), run.record.images
    own = [root / name for name, _ in (*drawn.labelled(), *(drawn.test or ()))]
    count = UsedImages(str(run.folder), chain(own, *(one.paths for one in evaluated))).count(images.paths)
    if count:
        notify(
            f"{path}: {count} of these {len(images)} foreign images are of the classes of {run.folder}: it drew them, "
            "or they are evaluated beside; name a folder of images that belong to none of the classes"
        )


def measure_foreign(
    clip: Clip, answers: Answers, images: ImageSet, own: np.ndarray, *, path: Path, chunk: int
) -> Generator[int, None, ForeignResult]:
    """Measure a head on foreign images, a chunk of them at a time.

    Args:
        clip: the checkpoint.
        answers: the head with its thresholds.
        images: what `find_images` returned.
        own: distances [N] of images of the run's own classes.
        path: the folder as the user named it.
        chunk: images whose features are in memory at once.

    Yields:
        How many images are done.
    """
    distances: list[np.ndarray] = []
    skipped: list[tuple[Path, str]] = []
    for start in range(0, len(images), chunk):
        part = images.take(range(start, min(start + chunk, len(images))))
        steps = encode_steps(clip, part, whole=False)
        features = yield from relay(steps, lambda step, start=start: start + step.done)  # type: ignore[misc]
        distances.append(measure_distances(answers, features.embeddings))
        skipped += features.skipped
    found = np.concatenate(distances)
    check_readable(images, np.zeros(len(found), int), skipped)
    return ForeignResult(
        path=path,
        images=len(found),
        unreadable=len(skipped),
        rejected=float((found > answers.farthest).mean()),
        stated_rejection=answers.rejection,
        opening=mean_opening(found, answers),
        auroc=separation(own, found),
        distances=found,
    )
