"""Measure the memory that is used, and hold MLX's working set in memory while a block of code runs.

MLX counts what its own allocator gave out (`mlx_peak`); the process's peak also holds Python, decoded images and
memory-mapped weights. On Metal a working set that is wired is not paged out between two steps; elsewhere
`wired_limit` does nothing.

>>> mlx_peak() <= physical()
True
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx


def mlx_peak() -> int:
    """Return the most bytes that MLX's arrays held at once since the start or `reset_mlx_peak`."""
    return max(mx.get_peak_memory(), mx.get_active_memory())  # a reset counts from 0, not from what is held


def reset_mlx_peak() -> None:
    """Count MLX's peak from now on."""
    mx.reset_peak_memory()


def process_peak() -> int:
    """Return the most bytes of physical memory that this process held at once (its peak resident set)."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: there `ru_maxrss` begins with what the process had that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def physical() -> int:
    """Return the bytes of physical memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def wired_limit(share: float = 1.0) -> Iterator[None]:
    """Keep MLX's working set resident inside the block, up to a share of what Metal recommends.

    Does nothing without Metal. Before macOS 15 MLX ignores the limit.
    """
    if not mx.metal.is_available():
        yield
        return
    recommended = int(mx.device_info()["max_recommended_working_set_size"])
    before = mx.set_wired_limit(int(share * recommended))
    try:
        yield
    finally:
        mx.synchronize()  # nothing that still runs may lose its buffers
        mx.set_wired_limit(before)
