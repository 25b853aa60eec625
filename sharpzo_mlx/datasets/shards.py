"""List the images of WebDataset's tar files, which are read where they lie and never extracted.

Members with the same name up to the first dot are one example: `0001.jpg` is the image, and `0001.cls`, `0001.txt` or
`0001.json` (with a key such as `label`) its label. A file's name gives its split: `birds-train-000000.tar`. An image is
spelled `birds-train-000000.tar#0001.jpg`.

>>> next(read_rows(Path("birds"), [Path("birds/train-0.tar")]))  # doctest: +SKIP
Row(name='train-0.tar#0001.jpg', label='wren', split='train')
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from sharpzo_mlx.datasets.parquet import find_with_ending
from sharpzo_mlx.datasets.rows import LABEL_COLUMNS, Row, find_column, split_of
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.files import open_regular
from sharpzo_mlx.images.load import IMAGE_SUFFIXES
from sharpzo_mlx.images.tar_members import Member, walk_members
from sharpzo_mlx.reading import decode_text, parse_json, reason

ENDING = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LABEL_ENDINGS = ("cls", "label", "txt", "json")  # in this order
LARGEST_LABEL = 1 << 20  # bytes


def find_files(folder: Path) -> list[Path]:
    """Return the tar files in a folder, or else in its `data/` or its splits, sorted."""
    return find_with_ending(folder, ENDING)


def is_compressed(file: Path) -> bool:
    """Return whether a file is a compressed tar file, by its name."""
    return file.name.lower().endswith(COMPRESSED)


def refuse_compressed(place: Path) -> None:
    """Raise a UserError if a file, or one in a folder, is a compressed tar file: in these no member can be reached."""
    files = [place] if place.is_file() else sorted(place.glob("*"))
    if packed := next((file for file in files if is_compressed(file)), None):
        raise UserError(f"{packed}: a compressed tar file; unpack it once, so that it ends in .tar")


def list_images(file: Path, left_out: Counter[str]) -> Iterator[str]:
    """Yield the spelling below its folder of every image of a tar file, with a label or without, each name once.

    Args:
        file: the tar file.
        left_out: takes the number of odd members, by kind.

    Raises:
        UserError: it cannot be read, or is no uncompressed tar file.
    """
    with _explaining(file):
        names = dict.fromkeys(member.name for member in walk_members(file, left_out) if _is_image(member.name))
    return (f"{file.name}#{name}" for name in names)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.rpartition("/")[2].startswith(".")


@contextmanager
def _explaining(file: Path) -> Iterator[None]:
    """Make a UserError of what reading a file that is no tar file, or a damaged one, raises."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {reason(error)}; give uncompressed tar files as WebDataset has them") from error


def read_rows(folder: Path, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the images with a label of tar files below a folder; notices count what is left out.

    Raises:
        UserError: a file cannot be read, or is no uncompressed tar file.
    """
    left_out: Counter[str] = Counter()
    for file in files:
        below = file.relative_to(folder)
        split = split_of(file.stem) or split_of(below.parent.name if len(below.parts) > 1 else "")
        with _explaining(file):
            for _, group in groupby(walk_members(file, left_out), key=lambda member: _key(member.name)):
                for name, label in _read_example(file, list(group), left_out):
                    yield Row(f"{below.as_posix()}#{name}", label, split)
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        notify(f"{folder}: left out of its tar files: {kinds}")


def _key(name: str) -> str:
    """Return a member's name up to the first dot behind the last slash."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _read_example(file: Path, members: list[Member], left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield the name of the image of an example and its label, if it has both."""
    endings = {member.name.rpartition("/")[2].partition(".")[2].lower(): member for member in members}
    images = [member for ending, member in endings.items() if f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    if not images:
        return
    found = (_read_label(file, endings[ending], ending) for ending in LABEL_ENDINGS if ending in endings)
    label = next((one for one in found if one), None)
    if label is None:
        left_out["images without a label"] += len(images)
        return
    left_out += Counter({"further images of an example": len(images) - 1})
    yield images[0].name, label


def _read_label(file: Path, member: Member, ending: str) -> str | None:
    if member.size > LARGEST_LABEL:
        return None
    with open_regular(file) as opened:
        opened.seek(member.offset)
        content = opened.read(member.size)
    try:
        text = decode_text(content).strip()
        return text if ending != "json" else _label_in(parse_json(text))
    except ValueError:
        return None


def _label_in(record: Any) -> str | None:
    if isinstance(record, dict):
        names = list(record)
        place = find_column(names, (*LABEL_COLUMNS, "cls"))
        record = None if place is None else record[names[place]]
    if isinstance(record, bool) or not isinstance(record, (str, int)):
        return None
    return str(record).strip() or None
