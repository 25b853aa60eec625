"""Watch a worker's memory: above a part of its limit it takes no further piece, and it leaves if that does not help.

dask pauses a worker whose process uses more than `distributed.worker.memory.pause` of its limit. The piece that it does
goes on. When it is done memory is usually free again; if not, nobody would be told, and the piece that waits would wait
for ever.

>>> watch = MemoryWatch(worker, say=print)  # doctest: +SKIP
>>> watch.look()  # again and again
''
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from sharpzo_mlx.report.formatting import amount

PATIENCE = 5.0  # seconds without work in which memory may become free


class MemoryWatch:
    """What is known of one worker's memory.

    Args:
        worker: a worker of dask, whose `status`, `data`, `state` and memory are asked.
        say: takes a line for the user of the worker.
        clock: seconds.
    """

    def __init__(self, worker: Any, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._worker, self._say, self._clock = worker, say, clock
        self._since: float | None = None  # paused and without work
        self._told = False

    def look(self) -> str:
        """Look once; return why the worker has to leave, empty if it need not."""
        if self._worker.status.name != "paused":
            self._since = None
            return ""
        if not self._told:
            self._told = True
            manager = self._worker.memory_manager
            least = amount(manager.memory_limit * manager.memory_pause_fraction)
            self._say(f"takes no further piece until it uses less than {least} of memory")
        if self._worker.state.executing_count or self._worker.data:  # a result that waits is memory too
            self._since = None
            return ""
        if self._since is None:
            self._since = self._clock()
            gc.collect()
            mx.clear_cache()
        if self._clock() - self._since < PATIENCE:
            return ""
        used = amount(self._worker.monitor.get_process_memory())
        limit = amount(self._worker.memory_manager.memory_limit)
        return (
            f"without work it uses {used} of the {limit} that it may; give it a larger --memory-limit, or let fewer "
            "workers share this machine"
        )
