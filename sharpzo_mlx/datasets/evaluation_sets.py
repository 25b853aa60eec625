"""Read a folder to evaluate, and relate its classes to the classes of a run.

A plain folder holds some or all of the tuned classes. Other kinds are numbered folders in class order (ImageNet-V2);
ImageNet-A and -R, where only their own 200 classes compete, as in the literature; trees corruption/severity/class
(ImageNet-C), which give one set for each pair; and folders with a mapping file (ObjectNet), where several tuned classes
may be right. Any other folder is an error, because a misspelt class would silently count as wrong.

>>> sets = recognise(Path("imagenet-a"), names, wnids)  # doctest: +SKIP
>>> sets[0].kind, len(sets[0].candidates)  # doctest: +SKIP
("ImageNet-A's 200 classes, scored over these", 200)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.datasets.corruptions import find_corruptions
from sharpzo_mlx.datasets.folder import checked_folder, read_folder
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.listed import find_listed
from sharpzo_mlx.datasets.mapping import apply_mapping
from sharpzo_mlx.datasets.matching import match_classes
from sharpzo_mlx.datasets.numbers import numbers_to_ids

AUTO, OWN, ALL = "auto", "own", "all"  # which of the tuned classes compete


@dataclass(frozen=True)
class EvaluationSet:
    """Images, and how the predictions of a run are evaluated on them.

    Attributes:
        images: the files; a label is a position in `images.folders`.
        owner: [K] the label that each tuned class stands for, or -1.
        candidates: the positions of the tuned classes that compete, ascending.
        kind: a description of the folder, in words.
        part: the corruption and severity, if the folder is part of a tree of corruptions.
    """

    images: ImageSet
    owner: np.ndarray
    candidates: np.ndarray
    kind: str
    part: tuple[str, str] | None = None


def recognise(
    folder: str | Path,
    classes: Sequence[str],
    folders: Sequence[str],
    *,
    scope: str = AUTO,
    mapping: Path | None = None,
) -> list[EvaluationSet]:
    """Relate a folder to the classes of a run; no image is opened.

    Args:
        folder: holds class folders, or a tree of corruptions.
        classes: the tuned classes' names.
        folders: their folder names, in the same order.
        scope: which classes compete: "own" for those of the folder, "all" for all tuned classes, "auto" for "own" with
            ImageNet-A, ImageNet-R or a mapping and "all" otherwise.
        mapping: a file that says which tuned classes a class folder stands for.

    Returns:
        One set, or one for each corruption and severity.

    Raises:
        UserError: the folder cannot be read, or holds classes that were not tuned.
    """
    place = checked_folder(folder)
    ids = imagenet.with_ids(folders)
    parts = [] if mapping or find_listed(place) else find_corruptions(place, {*ids, *classes})
    if not parts:
        return [_read_one(place, classes, ids, scope=scope, mapping=mapping)]
    return [replace(_read_one(inside, classes, ids, scope=scope, mapping=None), part=part) for part, inside in parts]


def _read_one(
    folder: Path, classes: Sequence[str], ids: Sequence[str], *, scope: str, mapping: Path | None
) -> EvaluationSet:
    found = read_folder(folder)
    count = len(classes)
    if mapping:
        images, owner = apply_mapping(found, mapping, classes, ids)
        kind = f"{len(images.folders)} classes by {mapping.name}"
        return _with_scope(EvaluationSet(images, owner, np.arange(count), kind), OWN if scope == AUTO else scope)
    identified = replace(found, folders=numbers_to_ids(folder, found.folders, ids))
    images = match_classes(identified, classes, ids)
    subset = imagenet.subset(tuple(sorted(identified.folders)))
    present = len(found.folders)
    counted = f"all {count} classes" if present == count else f"{present} of {count} tuned classes"
    kind = imagenet.describe(found.folders) or counted
    chosen = scope if scope != AUTO else OWN if subset and count > len(found.folders) else ALL
    return _with_scope(EvaluationSet(images, np.arange(count), np.arange(count), kind), chosen)


def _with_scope(scored: EvaluationSet, scope: str) -> EvaluationSet:
    if scope == ALL:
        return scored
    present = np.isin(scored.owner, np.unique(scored.images.labels))
    candidates = np.flatnonzero(present)
    words = "" if len(candidates) == len(scored.owner) else ", scored over these"
    return replace(scored, candidates=candidates, kind=scored.kind + words)
