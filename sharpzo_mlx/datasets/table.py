r"""Read a CSV or TSV file of images: a column of paths, one of labels, and perhaps one of splits.

The first line names the columns (`path,label,split`, in any order, others are passed over); without such a line they
are path, label and split, if the first cell is an image file. Paths start in the file's folder; absolute ones, and ones
that lead out of that folder, are read as they are. Quotes are those of CSV; the file is UTF-8, with or without a BOM.

>>> [row.label for row in parse_rows(Path("labels.csv"), "path,label\na.jpg,cat\n")]
['cat']
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.datasets.rows import IMAGE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS, SPLITS, UNDIVIDED, Row, find_column
from sharpzo_mlx.errors import UserError, shown
from sharpzo_mlx.files import expand
from sharpzo_mlx.images.load import IMAGE_SUFFIXES
from sharpzo_mlx.reading import is_encodable, read_text, reason

ENDINGS = (".csv", ".tsv")
LARGEST = 1 << 30  # bytes
FORM = "begin it with the line path,label or path,label,split"
LONGEST = 10_000  # characters of a path


def read_rows(file: Path) -> list[Row]:
    """Return the images of a table, sorted by their paths.

    Raises:
        UserError: the file cannot be read, or names no columns of paths and labels.
    """
    return sorted(parse_rows(file, _text(file)), key=lambda row: nfc(row.name))


def _text(file: Path) -> str:
    try:
        return read_text(file, LARGEST)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a table ({reason(error)}); save it as CSV in UTF-8") from error


def list_images(file: Path) -> list[str]:
    """Return the paths in a table's column of images, with labels or without, each once, in their order.

    Raises:
        UserError: the file cannot be read, or names no column of images.
    """
    return list(dict.fromkeys(_parse_paths(file, _text(file))))


def parse_rows(file: Path, text: str) -> Iterator[Row]:
    """Yield the images of a table's text; `file` names it in errors."""
    columns: Columns | None = None
    for where, cells in _lines(file, text):
        if columns is None:
            columns, is_header = find_columns(cells)
            if columns is None:
                raise UserError(f"{file}: line 1 names no columns of images and labels; {FORM}")
            if is_header:
                continue
        yield make_row(where, cells, columns)


def _parse_paths(file: Path, text: str) -> Iterator[str]:
    column: int | None = None
    for where, cells in _lines(file, text):
        if column is None:
            column = find_column(cells, IMAGE_COLUMNS)
            if column is not None:
                continue
            if not _is_image(cells[0]):
                raise UserError(f"{file}: line 1 names no column of images; begin it with the line path")
            column = 0
        yield checked_path(where, cells[column].strip() if column < len(cells) else "")


def _lines(file: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the cells of each line that is not blank, after the place that names it in errors."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(file, text), strict=True)
    try:
        for cells in lines:
            if any(cell.strip() for cell in cells):
                yield f"{file}: line {lines.line_num}", cells
    except csv.Error as error:
        raise UserError(f"{file}: line {lines.line_num} is no line of a table ({error}); {FORM}") from None


def names_labels(file: Path, text: str) -> bool:
    """Return whether the first line of a table's text says which columns hold images and labels."""
    lines = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=_separator(file, text.lstrip()))
    try:
        return find_columns(next(lines, []))[0] is not None
    except csv.Error:
        return False


def _separator(file: Path, text: str) -> str:
    first = text.partition("\n")[0]
    tabs = file.suffix.lower() == ".tsv" or ("\t" in first and "," not in first)
    return "\t" if tabs else ";" if ";" in first and "," not in first else ","


Columns = tuple[int, int, int | None]  # the places of image, label and split


def find_columns(cells: Sequence[str]) -> tuple[Columns | None, bool]:
    """Return the columns that a first line names, and whether it is a line of names."""
    image, label = find_column(cells, IMAGE_COLUMNS), find_column(cells, LABEL_COLUMNS)
    if image is not None and label is not None:
        return (image, label, find_column(cells, SPLIT_COLUMNS)), True
    if len(cells) in (2, 3) and _is_image(cells[0]):
        return (0, 1, 2 if len(cells) == 3 else None), False
    return None, False


def _is_image(cell: str) -> bool:
    return Path(cell.strip()).suffix.lower() in IMAGE_SUFFIXES


def make_row(where: str, cells: Sequence[str], columns: Columns) -> Row:
    """Return the image of one line; UserError that begins with `where` if it names none."""
    if len(cells) <= max(place for place in columns if place is not None):
        raise UserError(f"{where} has {len(cells)} columns, fewer than the first; quote cells with commas in them")
    path, label, split = (None if place is None else cells[place].strip() for place in columns)
    return checked_row(where, path or "", label or "", split)


def checked_row(where: str, path: str, label: str, split: str | None) -> Row:
    """Return a row; UserError that begins with `where` if the path, label or split is none."""
    name = checked_path(where, path)
    if not label:
        raise UserError(f"{where} has no label; give one, or take the line out")
    if split and split.lower() not in SPLITS:
        raise UserError(f"{where} has the split {shown(split)}; write train, val or test")
    return Row(name, label, SPLITS[split.lower()] if split else UNDIVIDED)


def checked_path(where: str, path: str) -> str:
    """Return a path with a home folder in place of `~`; UserError that begins with `where` if it is none."""
    if not path or len(path) > LONGEST or "\0" in path or not is_encodable(path):
        raise UserError(f"{where} has the path {shown(path)}, which is none")
    return str(expand(path))
