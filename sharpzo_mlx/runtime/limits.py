"""Bound the memory that MLX takes on a GPU: what a graph holds, and what is kept of it for later arrays.

A GPU keeps the arrays of a graph until the work on them has ended, and MLX hands over work faster than a GPU does it;
inside `bounded` MLX waits with more work while it holds more than a budget. Freed arrays go into a pool for later ones
of nearly the same size, without a bound of its own on a GPU; `bounded_cache` gives it one. Both limits belong to the
process, so that blocks in several threads share them, and the program's own limits stay where they are lower. On the
CPU, which frees the arrays of a graph as it goes and has a bound for its pool, nothing happens.

>>> with bounded(1 << 30), bounded_cache():
...     print(is_bounded())  # on a Mac's GPU: True
False
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx

from sharpzo_mlx.runtime.device import on_cpu
from sharpzo_mlx.runtime.memory import physical

LEAST_POOL, MOST_POOL = 2**29, 2**31


class SharedLimit:
    """A limit of MLX's allocator that blocks of code set and give back, in any order and in any thread.

    Args:
        assign: sets the limit, and returns the one before.
        combine: what the blocks inside ask for together.
        base: what comes on top of that, asked for when the first of them begins.
    """

    def __init__(
        self, assign: Callable[[int], int], combine: Callable[[Sequence[int]], int], base: Callable[[], int]
    ) -> None:
        self._assign, self._combine, self._base = assign, combine, base
        self._lock = threading.RLock()  # a dropped generator may end its block wherever Python collects garbage
        self._asked: dict[object, int] = {}  # by the blocks that are inside
        self._outside = self._held = 0  # the limit outside of all blocks, and the base

    @contextmanager
    def block(self, asked: int) -> Iterator[None]:
        """Ask for a limit inside a block; a lower one from outside stays."""
        block = object()
        try:
            with self._lock:
                if not self._asked:
                    self._held = self._base()
                    self._outside = self._assign(self._held + asked)
                self._asked[block] = asked
                self._settle()
            yield
        finally:
            with self._lock:
                if self._asked.pop(block, None) is not None:  # Ctrl-C may come before it is inside
                    self._settle()

    def _settle(self) -> None:
        while True:
            asked = list(self._asked.values())
            inside = self._held + self._combine(asked) if asked else self._outside
            self._assign(min(self._outside, inside))
            if asked == list(self._asked.values()):
                return


_here = threading.local()
_memory = SharedLimit(lambda limit: mx.set_memory_limit(limit), sum, base=lambda: mx.get_active_memory())
_pool = SharedLimit(lambda limit: mx.set_cache_limit(limit), max, base=lambda: 0)


@contextmanager
def bounded(budget: int) -> Iterator[None]:
    """Make MLX wait with more work on a GPU while it holds so many bytes more than at the beginning of the block.

    Blocks in several threads add up; a block inside another changes nothing. MLX may hold somewhat more, as it waits
    between the batches of work that it hands over. No number depends on it.

    Args:
        budget: bytes.
    """
    if on_cpu() or is_bounded():
        yield
        return
    _here.bounded = True
    try:
        with _memory.block(budget):
            yield
    finally:
        _here.bounded = False


def is_bounded() -> bool:
    """Return whether this thread is inside a block of `bounded` on a GPU."""
    return getattr(_here, "bounded", False)


def begin(*parts: mx.array | list[mx.array]) -> None:
    """Evaluate arrays before the next graph is made, so that what they are made from is let go.

    Where MLX bounds its memory by itself, nobody waits for them.
    """
    (mx.async_eval if is_bounded() else mx.eval)(*parts)


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
    with _pool.block(max(need or 0, pool_limit())):
        yield


def empty_cache() -> None:
    """Give MLX's pool back to the system on a GPU, where work of other sizes follows."""
    if not on_cpu():
        mx.clear_cache()
