"""Split a data set into training, validation and test images: by its folders, or drawn with the seed.

`train/`, `val/` and `test/` inside a data set are used as they are. A missing one is drawn from `train/`, or from the
class folders themselves: k shots for each class for training, min(k, 4) for validation, the rest for the test. Where a
class has too few images, training comes first: its only image is for training. The draw of a class depends on the seed,
its name and the sorted names of its images only, so that neither another class nor another machine changes it.

>>> split = draw_split("pacs/photo", shots=16, seed=0)  # doctest: +SKIP
>>> len(split.train), len(split.val)  # doctest: +SKIP
(112, 28)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.datasets.coop import find_split_file, read_split_file
from sharpzo_mlx.datasets.folder import (
    checked_folder,
    inner_folder,
    read_folder,
    refuse_flat_splits,
    report_beside,
    split_folders,
)
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.listed import read_listed
from sharpzo_mlx.datasets.names import NAMES_FILE, plain_name
from sharpzo_mlx.datasets.prefixes import all_numbered, without_numbers
from sharpzo_mlx.datasets.rows import UNDIVIDED
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.rng import generator_for

DEFAULT_SHOTS = 16  # the paper's setting
VALIDATION_SHOTS = 4
LEFT_OUT = "labelled images, each left out in turn"  # what a head is judged by


@dataclass(frozen=True)
class Split:
    """The images of a run; all three sets have the same classes in the same order.

    Attributes:
        train: up to `shots` images of each class.
        val: the images on which the best prompt is chosen; empty if no image is left and none is needed.
        test: the images for the final accuracy; None if no image is left.
        shots: the largest number of training images of a class.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet | None
    shots: int


@dataclass(frozen=True)
class Portion:
    """How many images of one class are for training and for validation; the rest is for the test, if one is drawn."""

    train: int
    val: int


def draw_split(folder: str | Path, *, shots: int | None, seed: int, needs_validation: bool = True) -> Split:
    """Choose the images to train, validate and test on; no image is opened.

    Args:
        folder: holds `train/`, `val/` and `test/` with class folders inside, or the class folders themselves; or a
            file or folder with a list, see `listed`.
        shots: training images of each class; None for 16, or fewer where a class has too few.
        seed: the seed of the draw.
        needs_validation: whether a split without validation images is refused. It changes nothing in what is drawn.

    Raises:
        UserError: the folder is missing, has fewer than two classes or too few images, or its splits have different
            classes.
    """
    if shots is not None and shots < 1:
        raise UserError(f"--shots {shots}: give at least 1 image for each class")
    folder = checked_folder(folder)
    if (file := find_split_file(folder)) is not None:
        pool, others = _published(file, shots or DEFAULT_SHOTS, seed)
    else:
        pool, others = _read_parts(folder)
    if len(pool.folders) < 2:
        raise UserError(f"{folder}: only one class, {pool.folders[0]!r}; a classifier needs at least two")
    split = _draw(pool, others, shots=shots, seed=seed)
    if needs_validation and not len(split.val):
        raise UserError(
            f"{folder}: no image is left for validation; give each class at least two images, "
            "or use `tune` without `--head none`"
        )
    report_names(folder, split.train)
    _report(folder, split, shots)
    _report_missing(folder, split, chosen_on="the validation images" if needs_validation else LEFT_OUT)
    return split


def read_splits(folder: str | Path) -> dict[str, ImageSet]:
    """Read the images of a data set as it divides them; nothing is drawn, and no image is opened.

    Args:
        folder: as `draw_split` takes it.

    Returns:
        The sets by "train", "val" and "test", or one by "" if the images are not divided; all have the same classes.

    Raises:
        UserError: as `draw_split` does, but for too few classes or images.
    """
    place = checked_folder(folder)
    if (file := find_split_file(place)) is not None:
        return {name: images for name, images in read_split_file(file).items() if len(images)}
    pool, others = _read_parts(place)
    sets = {"train" if others else UNDIVIDED: pool, **others}
    return {name: sets[name] for name in (UNDIVIDED, "train", "val", "test") if name in sets}


def _read_parts(folder: Path) -> tuple[ImageSet, dict[str, ImageSet]]:
    """Return the images to draw from, and the sets that the data set divides from them."""
    sets = read_listed(folder)
    return _from_folders(folder) if sets is None else _from_list(folder, sets)


def _published(file: Path, shots: int, seed: int) -> tuple[ImageSet, dict[str, ImageSet]]:
    """Read CoOp's split; as in its protocol, min(shots, 4) images of each class are drawn from its validation list."""
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
    """Return the images to draw from, and the sets that have folders of their own."""
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
    return pool, _with_test(folder, others, called=given["val"].name if "val" in given else "")


def _from_list(place: Path, sets: dict[str, ImageSet]) -> tuple[ImageSet, dict[str, ImageSet]]:
    """Return the images to draw from, and the sets that a list divides from them."""
    pool = sets.get(UNDIVIDED) or sets.get("train")
    if pool is None:
        raise UserError(f"{place}: holds {' and '.join(sets)} images but none for training; add some")
    pool = _present_classes(pool)
    others = {name: images for name, images in sets.items() if name in ("val", "test")}
    others = {name: _same_classes(_present_classes(images), pool, place) for name, images in others.items()}
    return pool, _with_test(place, others, called="val")


def _present_classes(images: ImageSet) -> ImageSet:
    """Return images with the classes that have any."""
    present = [label for label, count in enumerate(images.counts()) if count]
    places = {label: place for place, label in enumerate(present)}
    return ImageSet(
        images.paths,
        tuple(places[label] for label in images.labels),
        tuple(images.class_names[label] for label in present),
        tuple(images.folders[label] for label in present),
    )


def _with_test(place: Path, others: dict[str, ImageSet], *, called: str) -> dict[str, ImageSet]:
    """Return the validation and test images; where only validation images are given, they are the test images."""
    if "val" in others and "test" not in others:
        notify(f"{place}: no test images: {called} is the test set, validation is drawn from train")
        return {"test": others["val"]}
    return others


def _same_classes(images: ImageSet, pool: ImageSet, path: Path) -> ImageSet:
    """Return `images` with the labels of `pool`; the classes are matched by folder name."""
    places = {name: label for label, name in enumerate(pool.folders)}
    if unknown := [name for name in images.folders if name not in places]:
        raise UserError(f"{path}: classes that train lacks: {', '.join(unknown[:5])}; the splits must have the same")
    if lacking := [name for name in pool.folders if name not in images.folders]:
        notify(f"{path}: no images of {len(lacking)} of {len(places)} classes: {', '.join(lacking[:5])}")
    labels = tuple(places[images.folders[label]] for label in images.labels)
    return ImageSet(images.paths, labels, pool.class_names, pool.folders)


def _draw(pool: ImageSet, others: dict[str, ImageSet], *, shots: int | None, seed: int) -> Split:
    rows: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    start = 0
    for name, count in zip(pool.folders, pool.counts(), strict=True):
        order = generator_for(seed, "split", name).permutation(count) + start
        part = apportion(count, shots, draw_val="val" not in others, draw_test=not others)
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


def apportion(count: int, shots: int | None, *, draw_val: bool, draw_test: bool) -> Portion:
    """Divide the `count` images of a class; see `draw_split` for `shots`.

    Args:
        count: the images of the class.
        shots: the training images that were asked for, or None.
        draw_val: whether validation images are drawn from these images.
        draw_test: whether the rest is for the test.
    """
    wanted = shots or DEFAULT_SHOTS
    val = min(wanted, VALIDATION_SHOTS) if draw_val else 0
    if count >= wanted + val + (draw_test and shots is None):
        return Portion(wanted, val)
    few = min(val, count // 5 or (1 if count > 1 else 0))
    if shots is not None:  # shots that were asked for come first, unless validation would get nothing
        few = max(min(val, count - wanted), few if count <= wanted else 0)
        return Portion(min(wanted, count - few), few)
    left = (count - few) // 4 if draw_test else 0
    return Portion(min(wanted, count - few - left), few)


def report_names(folder: Path, images: ImageSet) -> None:
    """Notify the user of class names that are not the folders' own names, and of ids that have no name."""
    if images.class_names == imagenet.curated_names(images.folders):
        notify(f"{folder}: {imagenet.describe(images.folders)}; they get the names of CLIP's curated list")
    if unknown := [wnid for wnid in imagenet.nameless(images.folders) if wnid in images.class_names]:
        shown = ", ".join(unknown[:5])
        notify(f"{folder}: WordNet ids that are not among ImageNet's 1000 ({shown}): name them in a {NAMES_FILE}")
    _report_numbers(folder, images)


def _report_numbers(folder: Path, images: ImageSet) -> None:
    """Notify the user of numbers before the names of classes, which were left out or are in the prompts."""
    first, name = images.folders[0], images.class_names[0]
    dropped = without_numbers(images.folders)
    if dropped and images.class_names == tuple(map(plain_name, dropped)):
        notify(f"{folder}: the numbers before the class names are left out: {first!r} is {name!r} in prompts")
    elif images.class_names == tuple(map(plain_name, images.folders)) and all_numbered(images.folders):
        notify(f"{folder}: the class names are or begin with numbers, such as {name!r}: name them in a {NAMES_FILE}")


def _report(folder: Path, split: Split, shots: int | None) -> None:
    counts = split.train.counts()
    fewer = [f"{name} ({n})" for name, n in zip(split.train.folders, counts, strict=True) if n < split.shots]
    if shots is None:
        spread = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
        notify(f"{folder}: no --shots given; training images of each class: {spread}")
    elif fewer:
        more = f" and {len(fewer) - 5} more" if len(fewer) > 5 else ""
        notify(f"{folder}: fewer than {split.shots} training images: {', '.join(fewer[:5])}{more}")


def _report_missing(folder: Path, split: Split, *, chosen_on: str) -> None:
    """Notify the user of sets that no image is left for, and of what takes their place."""
    if split.test is None and len(split.train) == len(split.train.folders):  # none can be left out either
        notify(f"{folder}: no image is left for a test split or validation, nor to be left out")
    elif split.test is None and not len(split.val):
        notify(f"{folder}: no image is left for a test split or validation; accuracies will be those on {chosen_on}")
    elif split.test is None:
        notify(f"{folder}: no image is left for a test split; accuracies will be those on {chosen_on}")
    elif not len(split.val):
        notify(f"{folder}: no image is left for validation; choices are made on {chosen_on}")
