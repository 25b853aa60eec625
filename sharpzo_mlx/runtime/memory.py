"""Measure the memory that is used.

`mlx_peak` counts what MLX's own allocator gave out. `process_peak` also counts Python, decoded images and memory-mapped
weights. `limits` bounds what MLX takes.

>>> mlx_peak() <= physical()
True
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import mlx.core as mx

from sharpzo_mlx.runtime.footprint import largest_footprint


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
