"""Find copies and near-copies among images: by content, and by features with a look at the pixels.

Two files of equal content are copies. Two pictures are near-copies (recompressed, resized, brightened, a little
cropped) if the cosine of their features less the mean of all is at least 0.94 and their brightness on 16 x 16 fields
correlates by 0.93 or more. Either alone would also name different pictures of one subject (docs/results/labels.md).
A mirrored picture is not found.

>>> find_twins(features, paths)[0].same_content  # doctest: +SKIP
True
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.images.load import ImageError, open_image
from sharpzo_mlx.review.covering import centre
from sharpzo_mlx.runtime.products import host_products

CLOSE = 0.94  # least cosine of centred features
ALIKE = 0.93  # least correlation of brightness
FIELDS = 16  # in each direction
NEAREST = 4  # earlier images that each image is compared with
BLOCK = 1024  # images whose cosines are in memory at once
KEPT = 4096  # pictures whose fields are kept


@dataclass(frozen=True)
class Twin:
    """Two images that are the same picture.

    Attributes:
        row: the image.
        other: an earlier image.
        same_content: whether the files are the same to the last byte.
        similarity: the cosine of their features less the mean of all.
    """

    row: int
    other: int
    same_content: bool
    similarity: float


def find_twins(
    features: npt.NDArray[np.floating], paths: Sequence[Path], rather: Callable[[int, int], bool] = lambda *_: True
) -> list[Twin]:
    """Find for each image an earlier image that is the same picture.

    Args:
        features: image features [N, D].
        paths: the files [N].
        rather: says of an image and an earlier one whether the user wants to know; of several, such a one is returned.

    Returns:
        At most one for each image, in order.
    """
    fields = lru_cache(KEPT)(lambda row: _measure_fields(paths[row]))
    content = lru_cache(KEPT)(lambda row: _digest(paths[row]))
    found = []
    for row, near in _find_near(centre(features)):
        twins = [twin for other, cosine in near if (twin := _compare(row, other, cosine, content, fields)) is not None]
        if twins:
            found.append(min(twins, key=lambda twin: not rather(twin.row, twin.other)))
    return found


def _find_near(centred: npt.NDArray[np.float32]) -> list[tuple[int, list[tuple[int, float]]]]:
    """Return the rows that have earlier rows of a cosine of CLOSE or more, with the nearest of those."""
    found = []
    for start in range(0, len(centred), BLOCK):
        block = centred[start : start + BLOCK]
        with host_products():
            cosines = block @ centred[: start + len(block)].T
        for place in np.flatnonzero((cosines >= CLOSE).sum(axis=1) > 0):
            row = start + int(place)
            earlier = cosines[place, :row]
            near = np.flatnonzero(earlier >= CLOSE)
            near = near[np.argsort(-earlier[near], kind="stable")[:NEAREST]]
            if len(near):
                found.append((row, [(int(other), float(earlier[other])) for other in near]))
    return found


def _compare(
    row: int,
    other: int,
    cosine: float,
    content: Callable[[int], bytes | None],
    fields: Callable[[int], npt.NDArray[np.float64] | None],
) -> Twin | None:
    if content(row) is not None and content(row) == content(other):
        return Twin(row, other, True, cosine)
    one, two = fields(row), fields(other)
    alike = one is not None and two is not None and float(one @ two) >= ALIKE
    return Twin(row, other, False, cosine) if alike else None


def _digest(path: Path) -> bytes | None:
    try:
        return digest(path)
    except OSError:  # gone since it was encoded
        return None


def _measure_fields(path: Path) -> npt.NDArray[np.float64] | None:
    """Return the brightness of a picture's fields less their mean, of unit norm; None if it cannot be read."""
    try:
        picture = open_image(path).convert("L").resize((FIELDS, FIELDS), Image.Resampling.BOX)
    except (ImageError, OSError):
        return None
    values = np.asarray(picture, np.float64).ravel()
    values = values - values.mean()
    found: npt.NDArray[np.float64] = values / max(float(np.linalg.norm(values)), 1e-9)
    return found
