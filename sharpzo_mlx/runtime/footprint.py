"""Ask macOS for the footprint of this process: its memory as Activity Monitor shows it.

On Apple silicon the resident set leaves out what a GPU holds and what the system has compressed; the footprint has
both. `proc_pid_rusage` of libproc fills a record of 16 bytes of an identifier and 35 numbers of 64 bits (version 4).

>>> largest_footprint() is None or largest_footprint() > 0
True
"""

from __future__ import annotations

import ctypes
import os
import sys

LIBRARY = "/usr/lib/libproc.dylib"
VERSION = 4  # RUSAGE_INFO_V4
_WORDS = 2 + 35  # the identifier takes two
_LARGEST = 2 + 28  # ri_lifetime_max_phys_footprint


def largest_footprint() -> int | None:
    """Return the most bytes of this process's footprint since it began; None where macOS does not tell it."""
    if sys.platform != "darwin":
        return None
    record = (ctypes.c_uint64 * _WORDS)()
    try:
        failed = ctypes.CDLL(LIBRARY).proc_pid_rusage(os.getpid(), VERSION, ctypes.byref(record))
    except (OSError, AttributeError):  # no such library, or no such function in it
        return None
    return int(record[_LARGEST]) or None if failed == 0 else None
