"""The version of a run that is served: the present one, also after something was added to the run meanwhile.

Each request asks for it. That looks at the numbers of `run.json` on the disk, which `add` replaces in one step; if they
changed, a thread opens the run anew, and what it opened takes the place of the one before at once, whole. Requests are
answered to their end by the version that they began with.

>>> present = Present.of("runs/photo-m-0")  # doctest: +SKIP
>>> present.labeller().version  # doctest: +SKIP
2
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.hub.runs import load_run
from sharpzo_mlx.runs.history import present_version
from sharpzo_mlx.runs.run import RECORD, Run
from sharpzo_mlx.serving.labelling import Labeller

Mark = tuple[int, int, int]


class Present:
    """What labels with the present version of a run.

    Args:
        labeller: with the version at the start.
        mark: what `find_mark` said before the run was read; None for a run that is never read anew.
    """

    def __init__(self, labeller: Labeller, mark: Mark | None) -> None:
        self._labeller, self._mark = labeller, mark
        self._before = labeller
        self._lock = threading.Lock()
        self._opening = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sharpzo-mlx-open")

    @classmethod
    def of(cls, run: Run | str | Path, clip: Clip | None = None) -> Present:
        """Open a run and its model; a run from the hub stays as it is.

        Raises:
            UserError: there is no such run, or `predict` could not use it.
        """
        run = run if isinstance(run, Run) else load_run(run)
        mark = None if run.name is not None else find_mark(run.folder)
        return cls(Labeller.of(run, clip), mark)

    def labeller(self) -> Labeller:
        """Return what labels now; if the run's file has changed, begin to open it anew."""
        with self._lock:
            if self._mark is not None and not self._opening:
                mark = find_mark(self._labeller.run.folder)
                if mark is not None and mark != self._mark:
                    self._opening = True
                    self._thread.submit(self._open, mark)
            return self._labeller

    def of_version(self, number: int) -> Labeller | None:
        """Return what labels with a version, if it is the present one or the one before; else None."""
        with self._lock:
            return next((one for one in (self._labeller, self._before) if one.version == number), None)

    async def close(self) -> None:
        """End the thread."""
        await asyncio.to_thread(self._thread.shutdown)

    def _open(self, mark: Mark) -> None:
        old = self._labeller
        folder, new, reason = old.run.folder, None, ""
        try:
            run = Run.load(folder)
            if not run.finished:
                raise UserError("it is not finished")
            new = old.renewed(run)
        except Exception as error:  # whatever it is, requests are answered on
            reason = str(error) or type(error).__name__
        with self._lock:
            self._mark, self._opening = mark, False
            if new is not None:
                self._before, self._labeller = old, new
        if new is None:
            notify(f"{folder}: changed and cannot be served ({reason}); version {old.version} is served on")
        else:
            words = present_version(new.run).describe()
            notify(f"{folder}: version {new.version} is served from now on ({words})")


def find_mark(folder: Path) -> Mark | None:
    """Return what tells a run's file from the one before it; None where there is none."""
    try:
        found = os.stat(folder / RECORD)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
