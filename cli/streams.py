"""Make the standard streams of this process ready: none is missing, and every character can be written.

A program that was started with a closed stream gets the next file it opens in its place, and Python has None for it.
So /dev/null takes the place, first of all. What a stream's encoding lacks is written as an escape. stderr gets a file
descriptor of its own, so that descriptor 2 can be closed to the lines of C libraries while images are decoded.

>>> prepare()  # doctest: +SKIP
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

from sharpzo_mlx.images.quiet import quiet


def prepare() -> None:
    """Open missing streams, and make the others lenient; call it once, before anything is read or written."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if descriptor else os.O_RDONLY)  # takes the lowest number that is free
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = _make_lenient(sys.stdout or _open_text(1))
    sys.stderr = _make_lenient(_move(sys.stderr))
    quiet.descriptor = 2


def _make_lenient(stream: TextIO) -> TextIO:
    """Let UTF-8 write a file's name with the bytes it has, and other encodings escape what they lack."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        in_utf8 = codecs.lookup(stream.encoding).name == "utf-8"
        stream.reconfigure(errors="surrogateescape" if in_utf8 else "backslashreplace")
    return stream


def _move(stream: TextIO | None) -> TextIO:
    """Return stderr on a copy of its descriptor."""
    copy = os.dup(2)
    if stream is None:
        return _open_text(copy)
    return open(copy, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def _open_text(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
