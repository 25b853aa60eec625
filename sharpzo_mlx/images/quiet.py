"""Keep what decoders say by themselves away from the user: Pillow's warnings, and the lines of libtiff and libjpeg.

They name no file, and what matters in them becomes an ImageError. The C libraries write to file descriptor 2. Only a
program whose own stderr does not write there may have it closed to them; the command line is one.

>>> with quiet:
...     pass  # decode
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

MODULES = r"(PIL|pillow_heif)\b"  # whose warnings are ignored


class Quiet:
    """A block in which decoders are quiet; threads may be in it at the same time.

    Attributes:
        descriptor: the file descriptor that leads nowhere inside the block; None for none.
    """

    def __init__(self) -> None:
        self.descriptor: int | None = None
        self._lock = threading.Lock()
        self._inside = 0
        self._open = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:  # the first thread changes what the last one restores: both are the process's
                self._open.enter_context(_ignored_warnings())
                if self.descriptor is not None:
                    self._open.enter_context(_closed(self.descriptor))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._open.close()


@contextmanager
def _ignored_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=MODULES)
        yield


@contextmanager
def _closed(descriptor: int) -> Iterator[None]:
    """Let a file descriptor lead nowhere inside the block."""
    kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


quiet = Quiet()
