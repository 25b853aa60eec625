"""The labelled images of a run that are nearest to a new one, with a thumbnail of each.

Near is the cosine of image features, which the cache mostly has from tuning. Only images that are still there are
shown, and only those of the data set that the run names: a run from elsewhere could name any file.

>>> Neighbours.of(run, clip).nearest(features, count=3)[0][0].label  # doctest: +SKIP
'dog'
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.files import is_inside, root_of
from sharpzo_mlx.images.decode import ImageError, held_image
from sharpzo_mlx.images.stored import is_there
from sharpzo_mlx.runs.run import Run

SIDE = 128  # pixels of a thumbnail
KEPT = 512  # thumbnails in memory, some 5 kB each


@dataclass(frozen=True)
class Neighbour:
    """A labelled image that is near a new one.

    Attributes:
        number: its number, for `Neighbours.thumbnail`.
        label: the name of its class.
        similarity: the cosine of both features.
    """

    number: int
    label: str
    similarity: float


class Neighbours:
    """The labelled images that are still there.

    Args:
        features: their features; None for no image.
    """

    def __init__(self, features: Features | None) -> None:
        self._features = features
        self.thumbnail = lru_cache(KEPT)(self._draw_thumbnail)

    @classmethod
    def of(cls, run: Run, clip: Clip) -> Neighbours:
        """Return the labelled images of a run, of which one from the hub has none; a notice says what is missing."""
        if run.name is not None:  # a stranger's, which names no files of this machine
            return cls(None)
        images = _labelled_images(run)
        if not len(images):
            notify(f"nearest images are left out: none of the run's images is in {run.record.dataset} any more")
            return cls(None)
        try:
            return cls(encode(clip, images))
        except UserError as error:
            notify(f"nearest images are left out: {error}")
            return cls(None)

    def __len__(self) -> int:
        return 0 if self._features is None else len(self._features.paths)

    def nearest(self, embeddings: mx.array, count: int) -> list[tuple[Neighbour, ...]]:
        """Return for each image feature [N, D] of unit norm the nearest images, the nearest first."""
        if self._features is None or count < 1:
            return [()] * len(embeddings)
        cosines = np.array(embeddings @ self._features.embeddings.T)
        return [self._describe(row, count) for row in cosines]

    def _describe(self, cosines: np.ndarray, count: int) -> tuple[Neighbour, ...]:
        assert self._features is not None
        names, labels = self._features.class_names, self._features.labels
        order: Sequence[int] = np.argsort(-cosines, kind="stable")[:count].tolist()
        return tuple(Neighbour(place, names[labels[place]], float(cosines[place])) for place in order)

    def _draw_thumbnail(self, number: int) -> bytes | None:
        """Return a JPEG of an image, or None if there is no such image or it cannot be read any more."""
        if self._features is None or number not in range(len(self)):
            return None
        out = io.BytesIO()
        try:
            with held_image(self._features.paths[number]) as picture:
                picture.thumbnail((SIDE, SIDE))
                picture.save(out, "JPEG", quality=80)
        except ImageError:
            return None
        return out.getvalue()


def _labelled_images(run: Run) -> ImageSet:
    record = run.record
    root = root_of(record.dataset)
    rows = [(root / path, label) for path, label in record.images.labelled()]
    there = [(path, label) for path, label in rows if is_there(path) and is_inside(path, root)]
    return ImageSet(
        tuple(path for path, _ in there), tuple(label for _, label in there), record.class_names, record.class_folders
    )
