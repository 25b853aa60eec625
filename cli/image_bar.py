"""Show how many images are done beside lines of results: a bar on a terminal, a line after each silence in a pipe.

Progress goes to stderr and results to stdout. Where both are the same terminal, results are written above the bar.
Where another program reads the results through a pipe, lines take the place of the bar.

>>> with open_bar(total=1000) as bar:  # doctest: +SKIP
...     bar.write("a.jpg: dog 91.0 %\n")
...     bar.move(1)
"""

from __future__ import annotations

import os
import stat
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from sharpzo_mlx.cli.progress import QUIET_SECONDS, is_screen, make_progress
from sharpzo_mlx.runtime.helpers import describe_helpers

if TYPE_CHECKING:
    from rich.progress import Progress


class ImageBar(ABC):
    """The base of the bar and of the lines in its place."""

    @abstractmethod
    def move(self, done: int) -> None:
        """Show that so many images are done."""

    def write(self, text: str) -> None:
        """Write whole lines of results, which are not held back."""
        sys.stdout.write(text)
        sys.stdout.flush()


class PipedLines(ImageBar):
    """Lines for a pipe or a log: one whenever nothing was said for ten seconds."""

    def __init__(self, total: int | None, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._of = "" if total is None else f" of {total}"
        self._stream = stream
        self._clock = clock
        self._last = clock()

    def move(self, done: int) -> None:
        """Write a line after a silence."""
        if self._clock() - self._last >= QUIET_SECONDS:
            self._last = self._clock()
            print(f"images: {done}{self._of} done{describe_helpers()}", file=self._stream, flush=True)


class TerminalBar(ImageBar):
    """A bar for a terminal; it goes away at the end."""

    def __init__(self, total: int | None, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("images", total=total, words="")

    def move(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, words=describe_helpers().lstrip(", "))

    def write(self, text: str) -> None:
        """Write whole lines of results, above the bar if stdout is a terminal too."""
        if sys.stdout.isatty():
            console = self._progress.console
            console.print(text, end="", markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            super().write(text)


def _is_read_along() -> bool:
    """Return whether a program reads stdout through a pipe: what it writes to the terminal would stand in a bar."""
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # no file, or a closed one
        return False


@contextmanager
def open_bar(total: int | None, stream: TextIO | None = None) -> Iterator[ImageBar]:
    """Yield a bar of `total` images, None where their number is not known, on `stream`; None for stderr."""
    stream = stream or sys.stderr
    if not is_screen(stream) or _is_read_along():
        yield PipedLines(total, stream)
        return
    with make_progress(stream, results=True) as progress:
        yield TerminalBar(total, progress)
