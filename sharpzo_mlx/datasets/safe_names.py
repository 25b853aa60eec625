"""Make a class name one that every disk can hold, and say which names some disks do not tell apart.

Disks of macOS and Windows do not tell `Cat` from `cat`, nor the two forms of Unicode; Windows also has reserved names
and characters.

>>> make_safe("AC/DC"), make_safe("..."), make_safe("nul"), make_safe(".git")
('AC_DC', '_', 'nul_', '_git')
"""

from __future__ import annotations

import os
import re

from sharpzo_mlx.datasets.image_set import nfc

LONGEST = 200  # bytes of a folder's name; disks allow 255, some count characters
_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")


def make_safe(name: str) -> str:
    """Return a name as a folder's name on Linux, macOS and Windows; a safe one stays as it is, in composed Unicode."""
    safe = _UNSAFE.sub("_", nfc(name)).rstrip(". ").lstrip(" ")
    if safe.startswith("."):
        safe = "_" + safe[1:]
    if _RESERVED.fullmatch(safe):
        safe += "_"
    return shorten(safe, LONGEST) or "_"


def shorten(name: str, most: int) -> str:
    """Return the beginning of a name that takes at most so many bytes, without half a character at its end."""
    if len(os.fsencode(name)) <= most:
        return name
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name.rstrip(". ")


def fold(name: str) -> str:
    """Return a form that is equal for names that some disks do not tell apart."""
    return nfc(nfc(name).casefold())
