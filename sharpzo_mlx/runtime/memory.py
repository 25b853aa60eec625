"""Measure the memory that is used, and bound what MLX takes on a GPU.

`mlx_peak` counts what MLX's own allocator gave out. `process_peak` also counts Python, decoded images and memory-mapped
weights. A GPU keeps the arrays of a graph until the work on them has ended, and MLX hands over work faster than a GPU
does it; inside `bounded` MLX waits with more work while it holds more than a budget.

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

_lock = threading.Lock()
_budgets: list[int] = []  # of the blocks of `bounded` that run now, one a thread
_outside = 0  # MLX's limit outside of them
_held = 0  # what MLX held when the first of them began
_here = threading.local()


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


@contextmanager
def bounded(budget: int) -> Iterator[None]:
    """Make MLX wait with more work on a GPU while it holds so many bytes more than at the beginning of the block.

    The limit is the process's: blocks in several threads add up. A block inside another changes nothing, and neither
    does one on the CPU, which frees the arrays of a graph as it goes. MLX may hold somewhat more, as it waits between
    the batches of work that it hands over. No number depends on it.

    Args:
        budget: bytes.
    """
    if on_cpu() or is_bounded():
        yield
        return
    _here.bounded = True
    _enter(budget)
    try:
        yield
    finally:
        _here.bounded = False
        _leave(budget)


def is_bounded() -> bool:
    """Return whether this thread is inside a block of `bounded` on a GPU."""
    return getattr(_here, "bounded", False)


def begin(*parts: mx.array | list[mx.array]) -> None:
    """Evaluate arrays before the next graph is made, so that what they are made from is let go.

    Where MLX bounds its memory by itself, nobody waits for them.
    """
    (mx.async_eval if is_bounded() else mx.eval)(*parts)


def _enter(budget: int) -> None:
    global _outside, _held
    with _lock:
        if not _budgets:
            _outside, _held = mx.get_memory_limit(), mx.get_active_memory()
        _budgets.append(budget)
        mx.set_memory_limit(min(_outside, _held + sum(_budgets)))


def _leave(budget: int) -> None:
    with _lock:
        _budgets.remove(budget)
        mx.set_memory_limit(min(_outside, _held + sum(_budgets)) if _budgets else _outside)
