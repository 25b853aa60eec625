"""Let nothing be unpickled from the network but the few names that dask itself needs.

dask's messages are msgpack, but tasks inside them are pickled, and a pickle may name any function. Python reports every
name that a pickle looks up (the audit event `pickle.find_class`) before it is looked up. `install` refuses there, in
the threads that read the network, all names but these: dask's own task records, and the one function through which all
our work goes. A hook of this kind cannot be taken out again.

>>> install(("MainThread",))  # doctest: +SKIP
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterable

ALLOWED = frozenset(
    {
        ("builtins", "bytes"),
        ("dask._expr", "Expr._reconstruct"),
        ("dask._expr", "LLGExpr"),
        ("dask._task_spec", "Task"),
        ("sharpzo_mlx.cluster.work", "perform"),
    }
)
OFFLOAD = "Dask-Offload"  # how the names of dask's threads for large messages begin
_guarded: set[str] = set()


class RefusedPickle(pickle.UnpicklingError):
    """A message asked for a name that is not allowed."""


def install(threads: Iterable[str]) -> None:
    """Guard the threads whose names begin so, from now on to the end of the process, and dask's own for messages."""
    if not _guarded:
        sys.addaudithook(_refuse_strangers)
    _guarded.update((OFFLOAD, *threads))


def _refuse_strangers(event: str, arguments: tuple[object, ...]) -> None:
    if event != "pickle.find_class" or arguments in ALLOWED:
        return
    if threading.current_thread().name.startswith(tuple(_guarded)):
        raise RefusedPickle(f"a message asked for {arguments[0]}.{arguments[1]}, which no work of ours needs")
