"""Read data sets whose images are listed rather than put into class folders.

These are a CSV or TSV file, a folder of Hugging Face's `imagefolder` with `metadata.csv` or `metadata.jsonl`, Parquet
files, and WebDataset's tar files; each of the last two as one file or as a folder of them. Every form gives rows of
image, label and split, of which one `ImageSet` a split is made here. No image is opened.

>>> read_listed(Path("labels.csv"))["train"].class_names  # doctest: +SKIP
('cat', 'golden retriever')
>>> read_listed(Path("photos")) is None  # doctest: +SKIP
True
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from sharpzo_mlx.datasets import metadata, parquet, shards, table
from sharpzo_mlx.datasets.coop import find_split_file
from sharpzo_mlx.datasets.image_set import ImageSet, nfc
from sharpzo_mlx.datasets.names import class_names
from sharpzo_mlx.datasets.path_list import PathList
from sharpzo_mlx.datasets.rows import UNDIVIDED, Row
from sharpzo_mlx.datasets.scan import folders_inside, loose_images
from sharpzo_mlx.errors import UserError, one_line, shown
from sharpzo_mlx.reading import is_encodable

FILES = (*table.ENDINGS, parquet.ENDING, shards.ENDING)  # endings of files that are a data set
DEPTH = 4  # folders above a class's images, its own included
LONGEST = 1000  # characters of a label
Reader = Callable[[], Iterable[Row]]


def find_listed(place: Path) -> Reader | None:
    """Return what reads the rows of a data set; None where there are class folders, or nothing that is known.

    Args:
        place: a file, or a folder.
    """
    if place.is_file():
        return _reader_of_file(place)
    if files := metadata.find_files(place):
        return partial(metadata.read_rows, place, files)
    for kind in (parquet, shards):
        files = kind.find_files(place)
        if files and not has_class_folders(place):  # else it is perhaps what they were unpacked from
            return partial(kind.read_rows, place, files)
    if not has_class_folders(place):
        shards.refuse_compressed(place)
    return None


def has_class_folders(place: Path, depth: int = DEPTH) -> bool:
    """Return whether images lie in folders inside, such as `cat/`, `train/cat/` or `blur/defocus/1/cat/`."""
    inside = folders_inside(place)
    if any(loose_images(one) for one in inside):
        return True
    return depth > 1 and any(has_class_folders(one, depth - 1) for one in inside)


def _reader_of_file(file: Path) -> Reader | None:
    ending = file.suffix.lower()
    if ending in table.ENDINGS:
        return partial(table.read_rows, file)
    if ending == parquet.ENDING:
        return partial(parquet.read_rows, file.parent, [file])
    return partial(shards.read_rows, file.parent, [file]) if ending == shards.ENDING else None


def list_images(file: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Yield the images of a file that is a data set by itself, with a label or without, in the file's order.

    Args:
        file: `is_listed_file` says that it is one; a compressed tar file is refused.
        left_out: takes the number of members of a tar file that are not read, by kind.

    Raises:
        UserError: it cannot be read, or names no images.
    """
    shards.refuse_compressed(file)
    if file.suffix.lower() == parquet.ENDING:
        names: Iterable[str] = parquet.list_images(file)
    elif file.suffix.lower() == shards.ENDING:
        names = shards.list_images(file, left_out)
    else:
        names = table.list_images(file)
    return (file.parent / name for name in names)


def find_containers(folder: Path) -> list[Path]:
    """Return the Parquet or tar files of a folder that holds no images as files, which may be what these hold."""
    files = parquet.find_files(folder) or shards.find_files(folder)
    return [] if not files or loose_images(folder) or has_class_folders(folder) else files


def is_listed_file(path: Path) -> bool:
    """Return whether a path is a file that is a data set by itself, by its ending."""
    return path.suffix.lower() in FILES and path.is_file()


def has_list(place: Path) -> bool:
    """Return whether a file gives the images of a data set their labels, so that moving an image corrects none."""
    return find_split_file(place) is not None or find_listed(place) is not None


def read_listed(place: Path) -> dict[str, ImageSet] | None:
    """Read a listed data set.

    Args:
        place: a file, or a folder.

    Returns:
        The sets by "train", "val" and "test", or one by "" if the images are not divided; all have the same classes,
        sorted by their names. None if `place` is no such data set.

    Raises:
        UserError: it cannot be read, holds no image with a label, gives one image two labels or splits, or divides only
            some of its images.
    """
    read = find_listed(place)
    if read is None:
        return None
    folder = place if place.is_dir() else place.parent
    names: dict[tuple[str, str], list[str]] = {}  # by split and label
    for row in _once(place, folder, read()):
        _check_label(place, row)
        names.setdefault((row.split, nfc(row.label)), []).append(row.name)
    splits = list(dict.fromkeys(split for split, _ in names))
    if not names:
        raise UserError(f"{place}: no image with a label in it; see `docs/guide/data.md` for the forms of data")
    if UNDIVIDED in splits and len(splits) > 1:
        raise UserError(f"{place}: some images have a split and some have none; give each one, or none of them")
    labels = tuple(sorted({label for _, label in names}))
    words = class_names(folder, labels, fits_parent=False)
    return {split: _make_set(folder, names, split, labels, words) for split in splits}


def _once(place: Path, folder: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield each image once, however often it is listed; UserError if it has two labels or two splits."""
    seen: dict[str, Row] = {}
    for row in rows:
        known = seen.setdefault(_identity(folder, row.name), row)
        if known is row:
            yield row
            continue
        for what, one, other in (("label", known.label, row.label), ("split", known.split, row.split)):
            if nfc(one) != nfc(other):
                name = one_line(row.name, 200)
                raise UserError(f"{place}: {name} has the {what}s {shown(one)} and {shown(other)}; keep one")


def _identity(folder: Path, name: str) -> str:
    """Return one spelling of the path of an image, whether it is absolute, leads through `..`, or does neither."""
    if not os.path.isabs(name) and ".." not in name:
        return name
    return os.path.relpath(os.path.realpath(folder / name), os.path.realpath(folder))


def _make_set(
    folder: Path,
    names: dict[tuple[str, str], list[str]],
    split: str,
    labels: tuple[str, ...],
    words: tuple[str, ...],
) -> ImageSet:
    of_label = [names.get((split, label), []) for label in labels]
    return ImageSet(
        PathList(folder, (name for found in of_label for name in found)),
        tuple(place for place, found in enumerate(of_label) for _ in found),
        words,
        labels,
    )


def _check_label(place: Path, row: Row) -> None:
    label = row.label
    if not label or len(label) > LONGEST or not is_encodable(label) or "\0" in label:
        raise UserError(f"{place}: {one_line(row.name, 200)} has the label {shown(label)}, which is no class name")
