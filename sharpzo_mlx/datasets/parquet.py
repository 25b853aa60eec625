"""List the images of Parquet files, as Hugging Face's data sets have them: only labels are read, no image.

The label column is text, or numbers whose names are in the file's metadata. A file's name gives its split:
`train-00000-of-00002.parquet`. An image is spelled `train-00000-of-00002.parquet#17`, for row 17, counted from 0.

>>> find_files(Path("cifar"))  # doctest: +SKIP
[PosixPath('cifar/data/test-00000-of-00001.parquet'), PosixPath('cifar/data/train-00000-of-00001.parquet')]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharpzo_mlx.datasets.rows import LABEL_COLUMNS, SPLIT_COLUMNS, SPLITS, UNDIVIDED, Row, find_column, split_of
from sharpzo_mlx.errors import UserError, notify, one_line, shown
from sharpzo_mlx.images.parquet_rows import hugging_face_features, image_column, open_parquet

ENDING = ".parquet"
PREFERRED = (*LABEL_COLUMNS, "fine_label")
TEXTS = ("string", "large_string", "string_view")  # types of text
BATCH = 65_536  # labels that are read at a time


def find_files(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder, or else in its `data/` or its splits, sorted."""
    return find_with_ending(folder, ENDING)


def find_with_ending(folder: Path, ending: str) -> list[Path]:
    """Return the files of an ending in a folder, or else in the folders `data` and of splits inside it, sorted."""
    places = [folder]
    for _ in range(2):
        found = [file for place in places for file in place.glob("*") if _is_one(file, ending)]
        if found:
            return sorted(found)
        places = [one for one in folder.glob("*/") if one.name.lower() in (*SPLITS, "data") and one.is_dir()]
    return []


def _is_one(file: Path, ending: str) -> bool:
    return file.suffix.lower() == ending and not file.name.startswith(".") and file.is_file()


def list_images(file: Path) -> Iterator[str]:
    """Yield the spelling below its folder of every image of a Parquet file, with a label or without.

    Raises:
        UserError: it cannot be read, or has no column of images.
    """
    with _explaining(file):
        rows = _open_with_images(file).metadata.num_rows
    return (f"{file.name}#{number}" for number in range(rows))


def read_rows(folder: Path, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the images of Parquet files below a folder.

    Raises:
        UserError: a file cannot be read, has no column of images or of labels, or names some splits of another kind.
    """
    unlabelled, divided = 0, _Divided()
    for file in files:
        below = file.relative_to(folder)
        split = split_of(file.stem) or split_of(below.parent.name if len(below.parts) > 1 else "")
        with _explaining(file):
            for number, (label, own) in enumerate(_read_labels(file)):
                if label is None:
                    unlabelled += 1
                else:
                    yield Row(f"{below.as_posix()}#{number}", label, divided.find(file, own) or split)
    if unlabelled:
        notify(f"{folder}: {unlabelled} images have no label and are left out")


@contextmanager
def _explaining(file: Path) -> Iterator[None]:
    """Make a UserError of whatever a damaged file makes the package raise."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{file}: cannot be read as Parquet ({one_line(str(error))}); download it again") from error


def _open_with_images(file: Path) -> Any:
    opened = open_parquet(file)
    if image_column(opened) is None:
        raise UserError(f"{file}: no column of images (binary, or a struct with bytes); name it image")
    return opened


class _Divided:
    """The words in the column of splits: a column without any split, such as one of sources, says nothing."""

    def __init__(self) -> None:
        self._known = self._other = UNDIVIDED

    def find(self, file: Path, word: str) -> str:
        """Return the split that a word names, or ""; UserError if others were splits and this one is none."""
        found = SPLITS.get(word.strip().lower(), UNDIVIDED)
        self._known = self._known or found
        self._other = self._other or ("" if found else word)
        if self._known and self._other:
            raise UserError(f"{file}: has the split {shown(self._other)}; write train, val or test")
        return found


def _read_labels(file: Path) -> Iterator[tuple[str | None, str]]:
    """Yield label and split of each row; None where it has no label."""
    opened = _open_with_images(file)
    features = hugging_face_features(opened)
    label = _label_column(file, opened, features)
    columns = [str(name) for name in opened.schema_arrow.names]
    place = find_column(columns, SPLIT_COLUMNS)
    _check_kind(file, label, opened.schema_arrow.field(label).type)
    wanted = [label] if place is None else [label, columns[place]]
    names = _class_names(features, label)
    for batch in opened.iter_batches(batch_size=BATCH, columns=wanted, use_threads=False):
        labels = batch.column(label).to_pylist()
        splits = labels if place is None else batch.column(columns[place]).to_pylist()
        for one, own in zip(labels, splits, strict=True):
            yield _name(one, names), UNDIVIDED if place is None or own is None else str(own)


def _check_kind(file: Path, column: str, kind: Any) -> None:
    """Raise a UserError if a column has neither texts nor whole numbers."""
    from pyarrow import types

    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(inner) or types.is_null(inner) or str(inner) in TEXTS):
        raise UserError(f"{file}: the column {column} has the type {one_line(str(kind))}; labels are text or numbers")


def _label_column(file: Path, opened: Any, features: dict[str, Any]) -> str:
    columns = [str(name) for name in opened.schema_arrow.names]
    if (place := find_column(columns, PREFERRED)) is not None:
        return columns[place]
    labels = [name for name in columns if _class_names(features, name)]
    if len(labels) != 1:
        found = f"the columns {', '.join(labels)}" if labels else f"no column of labels among {', '.join(columns[:8])}"
        raise UserError(f"{file}: {found}; call the one to use label")
    return labels[0]


def _class_names(features: dict[str, Any], column: str) -> list[str]:
    kind = features.get(column)
    names = kind.get("names") if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" else None
    if isinstance(names, dict):  # an older form: names by number
        names = [names[str(place)] for place in range(len(names)) if str(place) in names]
    return [str(name) for name in names] if isinstance(names, list) else []


def _name(label: Any, names: Sequence[str]) -> str | None:
    if isinstance(label, int) and not isinstance(label, bool):
        if label < 0:
            return None
        return names[label] if label < len(names) else None if names else str(label)
    return label.strip() or None if isinstance(label, str) else None
