"""Work spread over the processor's cores from Python: a pool of threads, and NumPy's BLAS held to one core in each.

NumPy gives up the interpreter's lock inside its products and elementwise functions, so that threads which each
carry a piece of work from its first layer to its last need not wait for one another after every product, as the
threads inside a BLAS do. For that the BLAS must not start threads of its own meanwhile; the OpenBLAS that
NumPy's wheels carry can be told so while it runs. Where it cannot be found there is one piece and it has the BLAS
to itself.

>>> spread(lambda n: n * n, range(3))
[0, 1, 4]
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()  # one spread at a time: the BLAS's number of threads belongs to the process


def spread(work: Callable[[T], R], pieces: Iterable[T]) -> list[R]:
    """`work` of every piece, on all cores that the BLAS was given; the results in the pieces' order."""
    pieces = list(pieces)
    if workers() < 2:
        return [work(piece) for piece in pieces]
    with _lock, _one_thread_each():
        # a single piece is small: it stays here, and the BLAS's threads would only wait for one another
        return list(_pool().map(work, pieces)) if len(pieces) > 1 else [work(piece) for piece in pieces]


@cache
def workers() -> int:
    """Pieces that run at once: the threads that the BLAS has (OPENBLAS_NUM_THREADS), 1 where that is not known."""
    library = _openblas()
    if library is None:
        return 1
    # a process may be held to fewer cores than the machine has (containers, taskset), which the BLAS may not know
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(library.scipy_openblas_get_num_threads64_()), allowed))


@contextmanager
def small_products() -> Iterator[None]:
    """NumPy's BLAS on one core meanwhile: where many small products alternate with another library's, threads would
    only wait for one another (seven times slower, measured)."""
    if workers() < 2:
        yield
        return
    with _one_thread_each():
        yield


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers(), thread_name_prefix="sharpzo-mlx")


@contextmanager
def _one_thread_each() -> Iterator[None]:
    library = _openblas()
    assert library is not None, "workers() is 1 without it"
    before = library.scipy_openblas_get_num_threads64_()
    library.scipy_openblas_set_num_threads64_(1)
    try:
        yield
    finally:
        library.scipy_openblas_set_num_threads64_(before)


@cache
def _openblas() -> ctypes.CDLL | None:
    """The OpenBLAS inside NumPy's wheel, which is loaded already; None where NumPy uses another."""
    folder = Path(np.__file__).parent
    for path in (*folder.with_name("numpy.libs").glob("*openblas*"), *(folder / ".dylibs").glob("*openblas*")):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        if hasattr(library, "scipy_openblas_set_num_threads64_"):
            return library
    return None
