"""Spread work over the processor's cores, and hold NumPy's BLAS to one thread meanwhile.

NumPy releases the interpreter's lock inside its products and elementwise functions, so Python threads that each carry
one piece of work through all layers need not wait for one another after every product, as the threads inside a BLAS
do. The OpenBLAS in NumPy's wheels must not start threads of its own meanwhile. Where NumPy uses another BLAS, `spread`
runs one piece after the other and leaves the cores to that BLAS. MLX's own BLAS keeps its threads.

>>> spread(lambda n: n * n, range(3))
[0, 1, 4]
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from threadpoolctl import OpenBLASController, ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")
MOST_THREADS = 1024  # of a BLAS


class BlasLibrary(Protocol):
    """The part of threadpoolctl's controller of a BLAS library that is used here."""

    def get_num_threads(self) -> int:
        """Return the number of threads that the library uses in this process."""

    def set_num_threads(self, num_threads: int) -> None:
        """Set that number; does nothing while another live thread has control."""

    def clear_controlling_thread(self, force: bool = False) -> None:
        """Let the next thread that sets the number take control."""


class SingleThreaded(AbstractContextManager[None]):
    """Hold a BLAS library to one thread while at least one block of code is inside.

    The number of threads belongs to the process, so there is one guard for each library. Blocks may be nested, and may
    overlap in several threads in any order: the first to enter remembers the number, the last to leave restores it.
    """

    def __init__(self, library: BlasLibrary) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0
        self._changed = False

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = self._library.get_num_threads()
                self._library.set_num_threads(1)
                # no change where it was 1, or where another program's thread has control: nothing to restore then
                self._changed = self._library.get_num_threads() != self._before
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._changed:
                # the thread that entered first has control of the library, and need not be the one that leaves last
                _set_threads(self._library, self._before)


@dataclass(frozen=True)
class Cores:
    """The cores that NumPy's BLAS was given, for use by threads of our own.

    Attributes:
        workers: the number of pieces that run at once.
        pool: the threads that run them; they start when they are first needed.
        single_threaded: the guard that holds NumPy's BLAS to one thread.
    """

    workers: int
    pool: ThreadPoolExecutor
    single_threaded: SingleThreaded


def spread(work: Callable[[T], R], pieces: Iterable[T]) -> list[R]:
    """Call `work` on every piece, on all cores, and return the results in the order of the pieces.

    Raises:
        Exception: the first that `work` raised, in the order of the pieces.
    """
    pieces = list(pieces)
    found = cores()
    if found is None or found.workers < 2:
        return [work(piece) for piece in pieces]
    with found.single_threaded:
        # a single piece is small: it stays in this thread, and the BLAS's threads would only wait for one another
        return list(found.pool.map(work, pieces)) if len(pieces) > 1 else [work(piece) for piece in pieces]


def workers() -> int:
    """Return how many pieces `spread` runs at once (OPENBLAS_NUM_THREADS lowers it); 1 where NumPy has no OpenBLAS."""
    found = cores()
    return 1 if found is None else found.workers


def small_products() -> AbstractContextManager[None]:
    """Hold NumPy's BLAS to one thread inside a block where many small products alternate with MLX's work.

    Its threads would only wait for one another there (seven times slower, measured).
    """
    found = cores()
    return nullcontext() if found is None or found.workers < 2 else found.single_threaded


def numpy_openblas() -> OpenBLASController | None:
    """Return threadpoolctl's controller of the OpenBLAS inside NumPy's wheel; None if NumPy uses another BLAS."""
    return next((library for library in _openblas_libraries() if _is_numpys(library)), None)


def other_openblas() -> list[OpenBLASController]:
    """Return the controllers of all other OpenBLAS libraries in this process: on Linux MLX's, on macOS none."""
    return [library for library in _openblas_libraries() if not _is_numpys(library)]


def _openblas_libraries() -> list[OpenBLASController]:
    return [one for one in ThreadpoolController().lib_controllers if isinstance(one, OpenBLASController)]


def _is_numpys(library: OpenBLASController) -> bool:
    package = Path(np.__file__).resolve().parent
    return Path(library.filepath).parent in (package.with_name("numpy.libs"), package / ".dylibs")  # Linux, macOS


class KeptThreads(AbstractContextManager[None]):
    """Restore the number of threads of MLX's OpenBLAS when the last block of code leaves.

    mlx-data sets MLX's OpenBLAS to one thread while it decodes, from several threads at once, and sometimes leaves it
    there: the products after it are then slower and have other last bits.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a dropped generator may leave wherever Python collects garbage
        self._inside = 0
        self._before: list[tuple[BlasLibrary, int]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [(library, library.get_num_threads()) for library in other_openblas()]
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            for library, count in self._before if self._inside == 0 else ():
                if library.get_num_threads() != count:
                    _set_threads(library, count)


def _set_threads(library: BlasLibrary, count: int) -> None:
    """Set the number of threads of a library, whichever thread has control of it."""
    library.clear_controlling_thread(force=True)
    library.set_num_threads(count)
    library.clear_controlling_thread(force=True)


def mlx_threads() -> int:
    """Return the number of threads of MLX's OpenBLAS; 0 where it has another BLAS."""
    return max((library.get_num_threads() for library in other_openblas()), default=0)


@contextmanager
def given_threads(count: int) -> Iterator[None]:
    """Give MLX's OpenBLAS so many threads in a block, for the bits of a process where it has as many; 0: its own."""
    before = [(library, library.get_num_threads()) for library in other_openblas()] if count > 0 else []
    try:
        for library, _ in before:
            _set_threads(library, min(count, MOST_THREADS))
        yield
    finally:
        for library, own in before:
            _set_threads(library, own)


kept_threads = KeptThreads()  # the number of threads belongs to the process, and so does the guard


SHARERS = "SHARPZO_MLX_WORKERS_HERE"  # set for workers that share this machine


def sharers() -> int:
    """Return how many workers of a cluster share this machine, 1 outside of one."""
    given = os.environ.get(SHARERS, "")
    return max(1, int(given)) if given.isdigit() else 1


def shared_cores() -> int:
    """Return the machine's cores divided among the workers on it, at least 1."""
    return max(1, (os.cpu_count() or 1) // sharers())


def cores() -> Cores | None:
    """Return the cores that NumPy's OpenBLAS was given; None where NumPy uses another BLAS."""
    with _finding:
        return _find_cores()


_finding = threading.Lock()  # a second thread must not count the threads of a BLAS that the first already holds to one


@cache
def _find_cores() -> Cores | None:
    library = numpy_openblas()
    if library is None:
        return None
    # a process may be held to fewer cores than the machine has (containers, taskset), which the BLAS may not know
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(1, min(library.get_num_threads(), allowed))
    return Cores(count, ThreadPoolExecutor(count, thread_name_prefix="sharpzo-mlx"), SingleThreaded(library))
