"""Which images are for training, validation and test: given by folders, or drawn by the seed.

`train/`, `val/` and `test/` inside a data set are honoured; what is missing of them is drawn from `train/`,
or from the class folders themselves: k shots a class for training, min(k, 4) for validation, the rest for the
test. A class's draw is a function of the seed and of its own sorted relative names: no other class and no
other machine changes it.

>>> split = draw_split("pacs/photo", shots=16, seed=0)  # doctest: +SKIP
>>> len(split.train), len(split.val)  # doctest: +SKIP
(112, 28)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.datasets.coop import find_split_file, read_split_file
from sharpzo_mlx.datasets.folder import (
    checked_folder,
    inner_folder,
    notice,
    read_folder,
    refuse_flat_splits,
    report_beside,
    split_folders,
)
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.names import NAMES_FILE
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.rng import generator_for

DEFAULT_SHOTS = 16  # the paper's setting
VALIDATION_SHOTS = 4


@dataclass(frozen=True)
class Split:
    """The images of a run; all three sets have the same classes in the same order.

    Attributes:
        train: up to `shots` images a class.
        val: the images that choose the best prompt.
        test: None where nothing is left for it.
        shots: the most training images that a class may have.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet | None
    shots: int


@dataclass(frozen=True)
class _Share:
    """How many of one class's images go where; what is left is the test's, where one is drawn."""

    train: int
    val: int


def draw_split(folder: str | Path, *, shots: int | None, seed: int) -> Split:
    """Decide which images are trained on, validated on and tested on; nothing is decoded.

    Args:
        folder: `train/`, `val/`, `test/` with class folders inside, or the class folders themselves.
        shots: training images a class; None for 16, or what there is.
        seed: of the draw.

    Returns:
        The split.

    Raises:
        UserError: no such folder, fewer than two classes, splits whose classes differ, too few images.
    """
    if shots is not None and shots < 1:
        raise UserError(f"--shots {shots}: give at least 1 image a class")
    folder = checked_folder(folder)
    if (file := find_split_file(folder)) is not None:
        pool, others = _published(file, shots or DEFAULT_SHOTS, seed)
    else:
        pool, others = _from_folders(folder)
    if len(pool.folders) < 2:
        raise UserError(f"{folder}: only one class, {pool.folders[0]!r}; a classifier needs at least two")
    split = _draw(pool, others, shots=shots, seed=seed)
    _report_names(folder, split.train)
    _report(folder, split, shots)
    return split


def _published(file: Path, shots: int, seed: int) -> tuple[ImageSet, dict[str, ImageSet]]:
    """CoOp's own protocol: of its validation list, too, only min(shots, 4) a class are drawn."""
    parts = read_split_file(file)
    val = parts["val"]
    rows: list[int] = []
    start = 0
    for name, count in zip(val.folders, val.counts(), strict=True):
        order = generator_for(seed, "validation", name).permutation(count) + start
        rows += sorted(order[: min(shots, VALIDATION_SHOTS)].tolist())
        start += count
    given = {"val": val.take(rows), "test": parts["test"]}
    return parts["train"], {name: images for name, images in given.items() if len(images)}


def _from_folders(folder: Path) -> tuple[ImageSet, dict[str, ImageSet]]:
    """The images to draw from, and the sets that stand on the disk already."""
    folder = inner_folder(folder)
    given = split_folders(folder)
    if given and "train" not in given:
        refuse_flat_splits(folder)
        names = ", ".join(path.name for path in given.values())
        raise UserError(f"{folder}: holds {names} but no train; add it, or name the folder of the class folders")
    pool = read_folder(given.get("train", folder))
    if given:
        report_beside(folder, given.values())
    others = {name: _same_classes(read_folder(path), pool, path) for name, path in given.items() if name != "train"}
    if "val" in others and "test" not in others:
        notice(f"{folder}: no test folder: {given['val'].name} is the test set, validation is drawn from train")
        return pool, {"test": others["val"]}
    return pool, others


def _same_classes(images: ImageSet, pool: ImageSet, path: Path) -> ImageSet:
    """`images` with the labels of `pool`; classes must agree by folder name."""
    places = {name: label for label, name in enumerate(pool.folders)}
    if unknown := [name for name in images.folders if name not in places]:
        raise UserError(f"{path}: classes that train lacks: {', '.join(unknown[:5])}; the splits must have the same")
    if lacking := [name for name in pool.folders if name not in images.folders]:
        notice(f"{path}: no images of {len(lacking)} of {len(places)} classes: {', '.join(lacking[:5])}")
    labels = tuple(places[images.folders[label]] for label in images.labels)
    return ImageSet(images.paths, labels, pool.class_names, pool.folders)


def _draw(pool: ImageSet, others: dict[str, ImageSet], *, shots: int | None, seed: int) -> Split:
    share = _shares(shots, draw_val="val" not in others, draw_test=not others)
    rows: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    start = 0
    for name, count in zip(pool.folders, pool.counts(), strict=True):
        order = generator_for(seed, "split", name).permutation(count) + start
        part = share(count)
        rows["train"] += sorted(order[: part.train].tolist())
        rows["val"] += sorted(order[part.train : part.train + part.val].tolist())
        rows["test"] += sorted(order[part.train + part.val :].tolist())
        start += count
    drawn_test = pool.take(rows["test"]) if not others and rows["test"] else None
    return Split(
        train=pool.take(rows["train"]),
        val=others.get("val") or pool.take(rows["val"]),
        test=others.get("test", drawn_test),
        shots=shots or DEFAULT_SHOTS,
    )


def _shares(shots: int | None, *, draw_val: bool, draw_test: bool) -> Callable[[int], _Share]:
    """The rule by which the `count` images of a class are shared out."""
    wanted = shots or DEFAULT_SHOTS
    val = min(wanted, VALIDATION_SHOTS) if draw_val else 0

    def share(count: int) -> _Share:
        if count >= wanted + val + (draw_test and shots is None):
            return _Share(wanted, val)
        few = min(val, count // 5 or (1 if count > 1 else 0))
        if shots is not None:  # shots that were asked for come first, unless validation would get nothing
            few = max(min(val, count - wanted), few if count <= wanted else 0)
            return _Share(min(wanted, count - few), few)
        left = (count - few) // 4 if draw_test else 0
        return _Share(min(wanted, count - few - left), few)

    return share


def _report_names(folder: Path, images: ImageSet) -> None:
    """What a prompt is made of: who tunes wants to know; who evaluates has the run's names."""
    if images.class_names == imagenet.names_of(images.folders):
        notice(f"{folder}: {imagenet.described(images.folders)}; they are named as CLIP's curated list has them")
    if unknown := [wnid for wnid in imagenet.nameless(images.folders) if wnid in images.class_names]:
        shown = ", ".join(unknown[:5])
        notice(f"{folder}: WordNet ids that are none of ImageNet's 1000 ({shown}): name them in a {NAMES_FILE}")


def _report(folder: Path, split: Split, shots: int | None) -> None:
    if not len(split.val):
        raise UserError(f"{folder}: no image is left for validation; give each class at least two images")
    counts = split.train.counts()
    fewer = [f"{name} ({n})" for name, n in zip(split.train.folders, counts, strict=True) if n < split.shots]
    if shots is None:
        spread = f"{min(counts)} to {max(counts)}" if fewer else f"{split.shots}"
        notice(f"{folder}: no --shots given: {spread} training images a class are used")
    elif fewer:
        more = f" and {len(fewer) - 5} more" if len(fewer) > 5 else ""
        notice(f"{folder}: fewer than {split.shots} training images: {', '.join(fewer[:5])}{more}")
    if split.test is None:
        notice(f"{folder}: no image is left for a test split; accuracies will be those of validation")
