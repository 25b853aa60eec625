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
        UserError: the file cannot be read, names no columns of paths and labels, or gives one image two labels.
    """
    try:
        text = read_text(file, LARGEST)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a table ({reason(error)}); save it as CSV in UTF-8") from error
    rows: dict[str, Row] = {}
    for row in parse_rows(file, text):
        if (known := rows.setdefault(row.name, row)) != row:
            what = "label" if known.label != row.label else "split"
            one, other = (getattr(found, what) for found in (known, row))
            raise UserError(f"{file}: {row.name} has the {what}s {shown(one)} and {shown(other)}; keep one")
    return sorted(rows.values(), key=lambda row: nfc(row.name))


def parse_rows(file: Path, text: str) -> Iterator[Row]:
    """Yield the images of a table's text; `file` names it in errors."""
    first = text.partition("\n")[0]
    tabs = file.suffix.lower() == ".tsv" or ("\t" in first and "," not in first)
    separator = "\t" if tabs else ";" if ";" in first and "," not in first else ","
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: Columns | None = None
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns, is_header = find_columns(cells)
                if columns is None:
                    raise UserError(f"{file}: line 1 names no columns of images and labels; {FORM}")
                if is_header:
                    continue
            yield make_row(f"{file}: line {lines.line_num}", cells, columns)
    except csv.Error as error:
        raise UserError(f"{file}: line {lines.line_num} is no line of a table ({error}); {FORM}") from None


Columns = tuple[int, int, int | None]  # the places of image, label and split


def find_columns(cells: Sequence[str]) -> tuple[Columns | None, bool]:
    """Return the columns that a first line names, and whether it is a line of names."""
    image, label = find_column(cells, IMAGE_COLUMNS), find_column(cells, LABEL_COLUMNS)
    if image is not None and label is not None:
        return (image, label, find_column(cells, SPLIT_COLUMNS)), True
    if len(cells) in (2, 3) and Path(cells[0].strip()).suffix.lower() in IMAGE_SUFFIXES:
        return (0, 1, 2 if len(cells) == 3 else None), False
    return None, False


def make_row(where: str, cells: Sequence[str], columns: Columns) -> Row:
    """Return the image of one line; UserError that begins with `where` if it names none."""
    if len(cells) <= max(place for place in columns if place is not None):
        raise UserError(f"{where} has {len(cells)} columns, fewer than the first; quote cells with commas in them")
    path, label, split = (None if place is None else cells[place].strip() for place in columns)
    return checked_row(where, path or "", label or "", split)


def checked_row(where: str, path: str, label: str, split: str | None) -> Row:
    """Return a row; UserError that begins with `where` if the path, label or split is none."""
    if not path or len(path) > LONGEST or "\0" in path or not is_encodable(path):
        raise UserError(f"{where} has the path {shown(path)}, which is none")
    if not label:
        raise UserError(f"{where} has no label; give one, or take the line out")
    if split and split.lower() not in SPLITS:
        raise UserError(f"{where} has the split {shown(split)}; write train, val or test")
    return Row(str(expand(path)), label, SPLITS[split.lower()] if split else UNDIVIDED)
