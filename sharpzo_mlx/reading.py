"""Read a file that may come from a stranger: of bounded size, a regular file, and JSON without surprises.

Everything of the program's own folders and of data sets that is text or JSON is read here. A pipe or a device is an
OSError, what is wrong with the content a ValueError whose message is the reason; `reason` has both in words.

>>> parse_json('{"rows": [1, 2.5]}')
{'rows': [1, 2.5]}
>>> parse_json("[NaN]")
Traceback (most recent call last):
ValueError: no JSON (NaN is no number)
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

from sharpzo_mlx.errors import one_line, why
from sharpzo_mlx.files import open_regular

LARGEST = 64 << 20  # bytes of a text file
MOST_VALUES = 4_000_000  # in a JSON file; each takes about 64 bytes of memory
DEEPEST = 32  # levels of objects and lists; the deepest of our own has 5
MOST_DIGITS = 20  # of a whole number; all of 64 bits have fewer
POINTER = b"version https://git-lfs"  # how a file begins that stands for one that Git LFS keeps elsewhere
IS_POINTER = "it is a pointer of Git LFS, not the file itself: `git lfs pull` fetches it"
SHOWN = 80  # characters of a parser's words that a reason repeats


def read_bytes(path: Path, limit: int = LARGEST) -> bytes:
    """Return a file's content.

    Args:
        path: a regular file, or a link to one.
        limit: the largest size in bytes; not a byte more is read, even of a file that grows meanwhile.

    Raises:
        OSError: the file is missing, may not be read, or is a folder, pipe, socket or device.
        ValueError: it is larger than the limit, or a pointer of Git LFS.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise ValueError(f"too large, over {_size(limit)}")
    if content.startswith(POINTER):
        raise ValueError(IS_POINTER)
    return content


def read_text(path: Path, limit: int = LARGEST) -> str:
    """Return the content of a UTF-8 file, without the mark (BOM) that some editors put in front.

    Raises:
        OSError: see `read_bytes`.
        ValueError: the file is larger than the limit, or not UTF-8.
    """
    return decode_text(read_bytes(path, limit))


def decode_text(content: bytes) -> str:
    """Return UTF-8 bytes as text, without a mark (BOM) in front; ValueError says where they are not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None


def read_json(path: Path, limit: int = LARGEST) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: see `read_bytes`.
        ValueError: see `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, limit))


def parse_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON, is nested deeper than 32 levels, holds more than four million values, a number
            that is not finite or a whole number of more than 20 digits.
    """
    if text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        raise ValueError(f"no JSON that can be read (more than {MOST_VALUES} values)")
    try:
        content = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_short)
    except RecursionError:
        raise ValueError(f"no JSON that can be read (nested more than {DEEPEST} deep)") from None
    except ValueError as error:
        raise ValueError(f"no JSON ({one_line(str(error), SHOWN)})") from None
    if _is_deep(content):
        raise ValueError(f"no JSON that can be read (nested more than {DEEPEST} deep)")
    return content


def is_encodable(text: str) -> bool:
    """Return whether a text can be a file name: JSON may hold half a pair of surrogates, which no file name has."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def reason(error: OSError | ValueError) -> str:
    """Return why a file could not be read, such as "permission denied" or "not UTF-8 (byte 7)"."""
    return why(error) if isinstance(error, OSError) else one_line(str(error), 2 * SHOWN)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:MOST_DIGITS]} is too large a number")
    return number


def _short(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"{digits[:MOST_DIGITS]}... is too large a number")
    return int(digits)


def _is_deep(content: Any) -> bool:
    """Return whether lists and objects are nested deeper than allowed; level by level, so that no depth is too much."""
    level = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _size(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
