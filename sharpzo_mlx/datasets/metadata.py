"""Read a folder of Hugging Face's `imagefolder`: `metadata.csv` or `metadata.jsonl` beside the images.

The file names each image (`file_name`, from the file's own folder) and its label. It stands in the folder itself, or in
each of its `train/`, `validation/` and `test/`; these are also the splits of images that a file above them names. A
file without a column of labels (captions, boxes) is passed over with a notice, and class folders are read as ever.

>>> find_files(Path("photos"))  # doctest: +SKIP
[PosixPath('photos/train/metadata.jsonl')]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.datasets.rows import IMAGE_COLUMNS, LABEL_COLUMNS, SPLITS, UNDIVIDED, Row, find_column
from sharpzo_mlx.datasets.scan import folders_inside
from sharpzo_mlx.datasets.table import LARGEST, checked_row, find_columns, parse_rows
from sharpzo_mlx.errors import UserError, notify, shown
from sharpzo_mlx.reading import parse_json, read_text, reason

NAMES = ("metadata.csv", "metadata.jsonl")


def find_files(folder: Path) -> list[Path]:
    """Return the metadata of a folder and of its splits that have labels, sorted.

    Raises:
        UserError: one of them cannot be read, or a folder has both kinds.
    """
    places = [folder, *(one for one in folders_inside(folder) if one.name.lower() in SPLITS)]
    found = []
    for place in places:
        here = [place / name for name in NAMES if (place / name).is_file()]
        if len(here) > 1:
            raise UserError(f"{place}: holds {NAMES[0]} and {NAMES[1]}; keep the one to use")
        found += [file for file in here if _has_labels(file)]
    return found


def read_rows(folder: Path, files: Sequence[Path]) -> list[Row]:
    """Return the images of metadata files below a folder, sorted by their paths; UserError if one is no such file."""
    rows = [row for file in files for row in _read_file(folder, file)]
    return sorted(rows, key=lambda row: nfc(row.name))


def _read_file(folder: Path, file: Path) -> Iterator[Row]:
    below = file.parent.relative_to(folder)
    parse = _parse_lines if file.suffix == ".jsonl" else parse_rows
    for row in parse(file, _text(file)):
        name = row.name if Path(row.name).is_absolute() else str(below / row.name)
        parts = Path(name).parts
        split = SPLITS.get(parts[0].lower(), UNDIVIDED) if len(parts) > 1 else UNDIVIDED
        yield Row(name, row.label, row.split or split)


def _parse_lines(file: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            record = _record(file, number, line)
            names = list(record)
            image, label = find_column(names, IMAGE_COLUMNS), find_column(names, LABEL_COLUMNS)
            if image is None or label is None:
                raise UserError(f"{file}: line {number} has no file_name or no label; give it both, or take it out")
            values = record[names[image]], record[names[label]]
            if not isinstance(values[0], str) or isinstance(values[1], bool) or not isinstance(values[1], (str, int)):
                raise UserError(f"{file}: line {number} has the label {shown(values[1])}; write a name or a number")
            yield checked_row(f"{file}: line {number}", values[0], str(values[1]).strip(), None)


def _record(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise UserError(f"{file}: line {number}: {error}; write one object a line") from None
    if not isinstance(record, dict):
        raise UserError(f"{file}: line {number} is no object; write one a line")
    return record


def _has_labels(file: Path) -> bool:
    first = _text(file).lstrip().partition("\n")[0]
    if file.suffix == ".csv":
        columns, _ = find_columns(first.strip().replace('"', "").split("," if "," in first else ";"))
        labelled = columns is not None
    else:
        labelled = find_column(list(_record(file, 1, first or "{}")), LABEL_COLUMNS) is not None
    if not labelled:
        notify(f"{file}: has no column of labels ({', '.join(LABEL_COLUMNS[:3])}), so it is not used")
    return labelled


def _text(file: Path) -> str:
    try:
        return read_text(file, LARGEST)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)}); save it in UTF-8") from error
