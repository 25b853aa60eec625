"""The thread of a worker that does pieces, and how the process gets rid of a piece that nobody waits for any more.

A thread cannot be ended. When the leader has gone in the middle of a piece, the worker would be of no use to the next
one until the piece is done, perhaps for many minutes; nor would it end at Ctrl-C. So its process begins anew, or ends.

>>> hands = Hands()
>>> hands.submit(len, "abc").result(), busy()
(3, False)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_given: set[Future[Any]] = set()  # pieces that are not done


class Hands(ThreadPoolExecutor):
    """One thread, whose end is not waited for."""

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="sharpzo-mlx-piece")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Do something in the thread."""
        future = super().submit(fn, *args, **kwargs)
        _given.add(future)
        future.add_done_callback(_given.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; what is being done goes on."""
        super().shutdown(wait=False, cancel_futures=True)


def busy() -> bool:
    """Return whether something is being done in this process."""
    return any(future.running() for future in list(_given))


def begin_anew() -> NoReturn:
    """Replace this process by a new one with the same command, and with it whatever is being done."""
    _flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def end(code: int) -> NoReturn:
    """End this process, and with it whatever is being done."""
    _flush()
    os._exit(code)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
