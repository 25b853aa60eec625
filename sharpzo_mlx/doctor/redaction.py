"""Take private names out of text: folders, the user and the computer.

>>> redact("no such file: /Volumes/Photos of Ann/x.jpg", Names(()))
'no such file: …/x.jpg'
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SHORTEST = 3  # a user name of fewer letters would take words apart
# a folder's name may have spaces, the last name may not
_FOLDER, _LAST = r"(?:[^/\n'\";,:()]|'(?=\w))+/", r"[^\s/'\";,:()]*"
_PATHS = (
    re.compile(rf"(?<![\w.~/…])()/(?:{_FOLDER})+({_LAST})"),  # two folders deep at least
    re.compile(rf"(?<![\w.~/…])([~.]/)(?:{_FOLDER})*({_LAST})"),  # of the user's own folders, or where doctor runs
)


@dataclass(frozen=True)
class Names:
    """What is private on this machine: pairs of a text and what stands for it, the longest first."""

    pairs: tuple[tuple[str, str], ...]


def find_names() -> Names:
    """Return the private names of this machine and process."""
    folders = {
        str(Path.home()): "~",
        tempfile.gettempdir(): "TMP",
        os.getcwd(): ".",
        sys.prefix: "PYTHON",
    }
    folders |= {os.path.realpath(folder): short for folder, short in folders.items()}
    pairs = [(folder, short) for folder, short in folders.items() if len(folder) > 1]
    host = platform.node()
    words = {_user(): "USER", host: "HOST", host.split(".")[0]: "HOST", Path.home().name: "USER"}
    pairs += [(word, short) for word, short in words.items() if len(word) >= _SHORTEST]
    return Names(tuple(sorted(pairs, key=lambda pair: -len(pair[0]))))


def redact(text: str, names: Names) -> str:
    """Return the text with short forms for private names, and of every other path no more than the file's name."""
    for private, short in names.pairs:
        ends = "" if private.startswith("/") else r"\b"
        text = re.sub(rf"{ends}{re.escape(private)}(?!\w)", short, text)
    for path in _PATHS:
        text = path.sub(_shorten, text)
    return text


def _shorten(path: re.Match[str]) -> str:
    """Return a path without the names of folders: what has no suffix may be one."""
    start, last = path.groups()
    named = "." in last[1:] or last.startswith("sharpzo-mlx")
    whole = path[0] == start + last
    return (path[0] if whole else f"{start}…/{last}") if named else f"{start}…"


def redact_all(value: Any, names: Names) -> Any:
    """Return plain values (dictionaries, lists, texts, numbers) with every text redacted; keys stay."""
    if isinstance(value, str):
        return redact(value, names)
    if isinstance(value, dict):
        return {key: redact_all(item, names) for key, item in value.items()}
    return [redact_all(item, names) for item in value] if isinstance(value, (list, tuple)) else value


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in the system's table
        return ""
