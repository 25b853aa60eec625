"""Which images of a folder something was trained or validated on: accuracy on those flatters.

Files are known by their places, whatever link to a folder leads there; a copy elsewhere is not known again.

>>> seen_by(Run.load("runs/photo-m-0")).count(paths)  # doctest: +SKIP
140
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sharpzo_mlx.datasets.folder import notice
from sharpzo_mlx.runs.run import Run


class Seen:
    """The images that something was trained or validated on.

    Args:
        who: what was, in words.
        paths: of those images.
    """

    def __init__(self, who: str, paths: Iterable[Path]) -> None:
        self.who = who
        self._folders: dict[str, str] = {}  # a folder as it is given -> its place
        self._places = {self._place(path) for path in paths}

    def count(self, paths: Sequence[Path]) -> int:
        """How many of some files are among them."""
        return sum(self._place(path) in self._places for path in paths)

    def report(self, folder: Path, count: int, images: int) -> None:
        """One line where some of a folder's images are."""
        if count:
            notice(
                f"{folder}: {self.who} was trained or validated on {count} of these {images} images, so its "
                "accuracy here flatters; evaluate images that it has not seen"
            )

    def _place(self, path: Path) -> str:
        folder, _, name = str(path).rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return f"{self._folders[folder]}/{name}"


def seen_by(run: Run) -> Seen:
    """The images that a run was trained or validated on."""
    root, drawn = Path(run.record.dataset), run.record.images
    return Seen(str(run.folder), [root / path for rows in (drawn.train, drawn.val) for path, _ in rows])
