"""Class names for prompts: from `classnames.txt`, else ImageNet's curated ones, else from the folder names.

A line of the file is a folder, a space, a name (`n01440764 tench`), as in CoOp's list of ImageNet. It stands
in the folder itself or, for a split, beside it (beside `images/`, if the split is in one). Two classes of one name
cannot be told apart by a prompt: an error where the names come from folders, which can be merged, a notice where a
list says so (ImageNet has such pairs).

>>> plain_name("golden_retriever")
'golden retriever'
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sharpzo_mlx.datasets import imagenet
from sharpzo_mlx.errors import UserError

NAMES_FILE = "classnames.txt"


def plain_name(folder: str) -> str:
    """A folder's name as words: NFC, underscores as spaces."""
    return " ".join(unicodedata.normalize("NFC", folder).replace("_", " ").split()) or folder


def same_name(name: str) -> str:
    """What two names share when a prompt cannot tell them apart: CLIP's tokenizer drops case."""
    return plain_name(name).casefold()


def class_names(folder: Path, folders: Sequence[str], *, fits_parent: bool) -> tuple[str, ...]:
    """Names of the class folders of `folder`.

    Args:
        folder: where the class folders are; `classnames.txt` is looked for in it and then beside it.
        folders: the class folders' names, NFC.
        fits_parent: a list beside `folder` must fit (it is a split); else it is used only when it does.

    Returns:
        One name a folder, in their order.

    Raises:
        UserError: the list does not name a folder, cannot be read, or two folders give one name.
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
    if (curated := imagenet.names_of(folders)) is not None:
        return curated
    names = tuple(plain_name(name) for name in folders)
    _refuse_twins(folder, folders, names)
    return names


def _beside(folder: Path) -> list[Path]:
    """Where else a list may stand: beside the folder, or one higher where that is CoOp's `imagenet/images`."""
    parent = folder.resolve().parent
    return [parent, parent.parent] if parent.name == "images" else [parent]


def read_names(file: Path, folders: Sequence[str], *, strict: bool = True) -> dict[str, str]:
    """Read a `classnames.txt`: folder -> name; lines of folders that are not there are kept too.

    Args:
        file: UTF-8 text; empty lines are passed over.
        folders: known folder names, by which a line whose folder has spaces is understood.
        strict: whether a line that makes no sense is an error or passed over.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text; save it so") from error
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
            f"{folder}: the folders {folders[one]!r} and {folders[other]!r} give one class name, "
            f"{names[one]!r}: merge them, or tell them apart in a {NAMES_FILE}"
        )


def _report_twins(file: Path, names: Sequence[str]) -> None:
    if pairs := _twins(names):
        twins = ", ".join(sorted({names[other] for _, other in pairs})[:5])
        _notice(f"{file}: {len(pairs)} names are given twice ({twins}); a prompt cannot tell such classes apart")


def _notice(line: str) -> None:
    logging.getLogger("sharpzo_mlx").warning(line)
