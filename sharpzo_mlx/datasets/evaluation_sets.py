"""Relate a folder that is to be evaluated to a run's classes; its kind is recognised from the folder itself.

Plain folders hold the tuned classes or some of them. Beyond those: numbered folders in class order (ImageNet-V2);
ImageNet-A and -R, scored over their own 200 classes as the literature does; trees corruption/severity/class
(ImageNet-C), one set for each pair; and folders with a mapping file (ObjectNet), where several tuned classes may be
right. A folder of no such kind is an error, because a class under a wrong name would silently cost
accuracy.

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
from sharpzo_mlx.datasets.mapping import apply_mapping
from sharpzo_mlx.datasets.matching import match_classes
from sharpzo_mlx.errors import UserError, notify

AUTO, OWN, ALL = "auto", "own", "all"  # which of the tuned classes compete


@dataclass(frozen=True)
class EvaluationSet:
    """Images, and which of a run's predictions for them are right.

    Attributes:
        images: the files; a label is a position in `images.folders`.
        owner: [K] for each tuned class the label that it stands for, -1 if none.
        candidates: the tuned classes that compete, ascending.
        kind: what was recognised, in words.
        part: corruption and severity, in a tree of them.
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
    """Relate a folder to a run's classes; nothing is decoded.

    Args:
        folder: holds class folders, or a tree of corruptions.
        classes: the tuned classes' names.
        folders: their folder names, in the same order.
        scope: "own": only the folder's classes compete; "all": all tuned classes; "auto": all, but own for
            ImageNet-A and -R and with a mapping.
        mapping: a file that says which tuned classes a class folder stands for.

    Returns:
        One set, or one for each corruption and severity.

    Raises:
        UserError: the folder cannot be read, or holds classes that were not tuned.
    """
    place = checked_folder(folder)
    ids = imagenet.with_ids(folders)
    leaves = [] if mapping else find_corruptions(place, {*ids, *classes})
    if not leaves:
        return [_scored(place, classes, ids, scope=scope, mapping=mapping)]
    return [replace(_scored(leaf, classes, ids, scope=scope, mapping=None), part=part) for part, leaf in leaves]


def _scored(
    folder: Path, classes: Sequence[str], ids: Sequence[str], *, scope: str, mapping: Path | None
) -> EvaluationSet:
    found = read_folder(folder)
    count = len(classes)
    if mapping:
        images, owner = apply_mapping(found, mapping, classes, ids)
        kind = f"{len(images.folders)} classes by {mapping.name}"
        return _with_scope(EvaluationSet(images, owner, np.arange(count), kind), OWN if scope == AUTO else scope)
    identified = replace(found, folders=_by_number(folder, found.folders, ids))
    images = match_classes(identified, classes, ids)
    subset = imagenet.subset(tuple(sorted(identified.folders)))
    described = imagenet.describe(found.folders) or f"{len(found.folders)} of {count} tuned classes"
    kind = described if len(found.folders) != count else imagenet.describe(found.folders) or f"all {count} classes"
    chosen = scope if scope != AUTO else OWN if subset and count > len(found.folders) else ALL
    return _with_scope(EvaluationSet(images, np.arange(count), np.arange(count), kind), chosen)


def _with_scope(scored: EvaluationSet, scope: str) -> EvaluationSet:
    if scope == ALL:
        return scored
    present = np.isin(scored.owner, np.unique(scored.images.labels))
    candidates = np.flatnonzero(present)
    words = "" if len(candidates) == len(scored.owner) else ", scored over these"
    return replace(scored, candidates=candidates, kind=scored.kind + words)


def _by_number(folder: Path, found: tuple[str, ...], ids: Sequence[str]) -> tuple[str, ...]:
    """Replace numbers by ids: folder n is the n-th class, counted from 0 in the order of the ids."""
    if not imagenet.numbered(found) or set(found) <= set(ids):
        return found
    numbers = [int(name) for name in found]
    ordered = sorted(ids)
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise UserError(f"{folder}: the number {twice} is there twice; keep one folder of it")
    if max(numbers) >= len(ordered):
        raise UserError(
            f"{folder}: a folder {max(numbers)}, but the {len(ordered)} tuned classes are numbered "
            f"0 to {len(ordered) - 1}; renumber the folders from 0, or name them as the run's classes"
        )
    if max(numbers) < len(ordered) - 1:
        raise UserError(
            f"{folder}: numbers end at {max(numbers)}, the tuned classes at {len(ordered) - 1}: which classes "
            "are meant cannot be told; name the folders as the run's classes, or give a --mapping"
        )
    if missing := sorted(set(range(len(ordered))) - set(numbers)):
        shown = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        notify(f"{folder}: no folder {shown}; the others count by their own numbers")
    return tuple(ordered[number] for number in numbers)
