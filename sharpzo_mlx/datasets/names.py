"""Name classes for prompts: from `classnames.txt`, else by ImageNet's curated names, else from the folder names.

Numbers that count the folders (`001.dog`) are left out of names that come from them.

A line of `classnames.txt` is a folder, a space and a name (`n01440764 tench`), as in CoOp's list of ImageNet. The file
stands in the folder itself or, for a split, beside it (beside `images/` if the split is inside one). A prompt cannot
tell two classes of the same name apart: this is an error where names come from folders, which can be merged, and a
notice where a list says so (ImageNet has such pairs).

>>> plain_name("golden_retriever")
'golden retriever'
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.datasets.prefixes import without_numbers
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.reading import read_text, reason

NAMES_FILE = "classnames.txt"


def plain_name(folder: str) -> str:
    """Return a folder's name as words: composed unicode, spaces for underscores."""
    return " ".join(unicodedata.normalize("NFC", folder).replace("_", " ").split()) or folder


def same_name(name: str) -> str:
    """Return a form that is the same for two names that a prompt cannot tell apart; CLIP's tokenizer drops case."""
    return plain_name(name).casefold()


def class_names(folder: Path, folders: Sequence[str], *, fits_parent: bool) -> tuple[str, ...]:
    """Return the names of class folders, in their order.

    Args:
        folder: the folder that holds the class folders; `classnames.txt` is looked for in it and then beside it.
        folders: the names of the class folders in composed unicode.
        fits_parent: whether a list beside `folder` must name all folders (true for a split); otherwise it is used only
            if it does.

    Raises:
        UserError: the list cannot be read or does not name a folder, or two folders give the same name.
    """
    for place, must_fit in ((folder, True), *((place, fits_parent) for place in _beside(folder))):
        if (file := place / NAMES_FILE).is_file():
            listed = read_names(file, folders, strict=must_fit)
            if all(name in listed for name in folders):
                names = tuple(listed[name] for name in folders)
                _report_twins(file, names)
                return names
            if must_fit:
                missing = ", ".join([name for name in folders if name not in listed][:5])
                raise UserError(f"{file}: does not name these class folders: {missing}; add a line for each")
    if (curated := imagenet.curated_names(folders)) is not None:
        return curated
    names = tuple(plain_name(name) for name in without_numbers(folders) or folders)
    _refuse_twins(folder, folders, names)
    return names


def _beside(folder: Path) -> list[Path]:
    """Return the other folders that may hold the list: the parent, and the one above CoOp's `imagenet/images`."""
    parent = folder.resolve().parent
    return [parent, parent.parent] if parent.name == "images" else [parent]


def read_names(file: Path, folders: Sequence[str], *, strict: bool = True) -> dict[str, str]:
    """Read a `classnames.txt` into a dictionary from folder to name, which may have more folders than exist.

    Args:
        file: UTF-8 text; empty lines are skipped.
        folders: the known folder names, needed to split lines whose folder contains spaces.
        strict: whether a malformed line is an error; otherwise it is skipped.

    Raises:
        UserError: the file cannot be read, or a line is malformed and `strict` is true.
    """
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text ({reason(error)}); save it as UTF-8") from error
    spaced = sorted((name for name in folders if " " in name), key=len, reverse=True)
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = unicodedata.normalize("NFC", line).strip()
        if not text:
            continue
        folder, name = _split_line(text, spaced)
        if not name or names.get(folder, name) != name:
            if not strict:
                continue
            problem = "names a folder twice" if name else "has no name behind the folder"
            raise UserError(f"{file}: line {number} ({text!r}) {problem}; write lines like 'n01440764 tench'")
        names[folder] = name
    return names


def _split_line(text: str, spaced: list[str]) -> tuple[str, str]:
    for folder in spaced:
        if text.startswith(folder) and text[len(folder) : len(folder) + 1] in (" ", "\t", ""):
            return folder, " ".join(text[len(folder) :].split())
    folder, _, name = text.replace("\t", " ").partition(" ")
    return folder, " ".join(name.replace("_", " ").split())


def _twins(names: Sequence[str]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [
        (first[key], index) for index, key in enumerate(map(same_name, names)) if first.setdefault(key, index) != index
    ]


def _refuse_twins(folder: Path, folders: Sequence[str], names: Sequence[str]) -> None:
    for one, other in _twins(names):
        raise UserError(
            f"{folder}: the folders {folders[one]!r} and {folders[other]!r} give the same class name, "
            f"{names[one]!r}: merge them, or tell them apart in a {NAMES_FILE}"
        )


def _report_twins(file: Path, names: Sequence[str]) -> None:
    if pairs := _twins(names):
        twins = ", ".join(sorted({names[other] for _, other in pairs})[:5])
        notify(f"{file}: {len(pairs)} names are given twice ({twins}); a prompt cannot tell such classes apart")
