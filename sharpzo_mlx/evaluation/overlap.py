"""Find the images of a folder that a run was trained or validated on: accuracy on them is too high.

Files are known by their numbers on the disk, whatever spelling or links lead to them; a copy is another file.

>>> images_used_by(Run.load("runs/photo-m-0")).count(paths)  # doctest: +SKIP
140
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sharpzo_mlx.errors import notify
from sharpzo_mlx.files import identify, root_of
from sharpzo_mlx.runs.record import UNSAID
from sharpzo_mlx.runs.run import Run


class UsedImages:
    """The images that something was trained or validated on.

    Args:
        user: what was trained, in words for a notice.
        paths: the images.
    """

    def __init__(self, user: str, paths: Iterable[Path]) -> None:
        self.user = user
        self._files = {identify(path) for path in paths}

    def count(self, paths: Sequence[Path]) -> int:
        """Return how many of some files are among them."""
        return sum(identify(path) in self._files for path in paths)

    def report(self, folder: Path, count: int, images: int) -> None:
        """Give a notice where `count` of the `images` images of a folder were used; none where that is 0."""
        if count:
            notify(
                f"{folder}: {self.user} was trained or validated on {count} of these {images} images, so its "
                "accuracy here flatters; evaluate images that it has not seen"
            )


def images_used_by(run: Run) -> UsedImages:
    """Return the images that a run was trained or validated on."""
    root = root_of(run.record.dataset)
    rows = () if run.record.dataset == UNSAID else run.record.images.labelled()
    return UsedImages(str(run.folder), [root / path for path, _ in rows])
