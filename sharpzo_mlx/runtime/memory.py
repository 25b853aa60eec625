"""Measure the memory that is used, and bound what MLX keeps of it on a GPU.

`mlx_peak` counts what MLX's own allocator gave out. `process_peak` also counts Python, decoded images and memory-mapped
weights. MLX keeps freed arrays in a pool for later ones of nearly the same size, without a bound of its own on a GPU;
`bounded_cache` gives it one.

>>> mlx_peak() <= physical()
True
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx

from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.footprint import largest_footprint

LEAST_POOL, MOST_POOL = 2**29, 2**31

_lock = threading.Lock()  # the limit belongs to the process
_limits: list[int] = []  # of the blocks that are inside
_before = 0  # the limit outside of all blocks


def mlx_peak() -> int:
    """Return the most bytes that MLX's arrays held at once since the start or `reset_mlx_peak`."""
    return max(mx.get_peak_memory(), mx.get_active_memory())  # a reset counts from 0, not from what is in use


def reset_mlx_peak() -> None:
    """Count MLX's peak from now on."""
    mx.reset_peak_memory()


def mlx_cache() -> int:
    """Return the bytes that MLX keeps for arrays to come; they belong to no array and are not in `mlx_peak`."""
    return mx.get_cache_memory()


def process_peak() -> int:
    """Return the most bytes of memory that this process held at once.

    On macOS that is its footprint, which has what Metal holds, as Activity Monitor shows it; elsewhere, and where macOS
    does not tell it, the resident set.
    """
    if (footprint := largest_footprint()) is not None:
        return footprint
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where `ru_maxrss` begins with the memory of the parent process
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def physical() -> int:
    """Return the bytes of physical memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def pool_limit() -> int:
    """Return the bytes that MLX may keep on a GPU: a sixteenth of the machine, between 512 MB and 2 GB.

    One pass of 8 images through ViT-B/16 makes 0.75 GB of arrays in float32, which a GPU may hold all at once.
    """
    return min(MOST_POOL, max(LEAST_POOL, physical() // 16))


@contextmanager
def bounded_cache(need: int | None = None) -> Iterator[None]:
    """Bound MLX's pool inside a block of code on a GPU; the limit before comes back when the last block leaves.

    Blocks may be nested and may overlap in several threads: the largest of their limits holds, and a lower limit that
    the program has set itself stays. On the CPU, where MLX has a bound of its own, nothing happens.

    Args:
        need: bytes that are freed and used again inside, if they may be more than `pool_limit`.
    """
    if on_cpu():
        yield
        return
    limit = max(need or 0, pool_limit())
    _enter(limit)
    try:
        yield
    finally:
        _leave(limit)


def _enter(limit: int) -> None:
    global _before
    with _lock:
        if not _limits:
            _before = mx.set_cache_limit(limit)
        _limits.append(limit)
        mx.set_cache_limit(min(_before, max(_limits)))


def _leave(limit: int) -> None:
    with _lock:
        _limits.remove(limit)
        mx.set_cache_limit(min(_before, max(_limits)) if _limits else _before)


def empty_cache() -> None:
    """Give MLX's pool back to the system on a GPU, where work of other sizes follows."""
    if not on_cpu():
        mx.clear_cache()
