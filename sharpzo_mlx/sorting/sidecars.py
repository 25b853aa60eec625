"""Find the files that belong to an image and travel along: XMP, edits of Apple's photo programs, a Live Photo's movie.

`a.jpg.xmp` belongs to `a.jpg` alone; `a.xmp`, `a.aae` and `a.mov` to all images called `a`. Apple also writes
`IMG_O1.AAE` and `IMG_E1.AAE` beside `IMG_1.HEIC`, for the original and the edited picture.

>>> sidecars = Sidecars(Path("photos"), {"IMG_1.HEIC"})  # doctest: +SKIP
>>> sidecars.find("IMG_1.HEIC")  # doctest: +SKIP
[Sidecar(name='IMG_1.MOV', stem='IMG_1', ending='.MOV', owners=('IMG_1.HEIC',))]
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets.safe_names import fold
from sharpzo_mlx.images.load import IMAGE_SUFFIXES

XMP, EDITS, MOVIE = ".xmp", ".aae", ".mov"
_APPLE = re.compile(r"(img_)[eo](\d+)")


@dataclass(frozen=True)
class Sidecar:
    """A file that travels with an image.

    Attributes:
        name: its name, in the image's folder.
        stem: the part of it that is numbered when the image is.
        ending: the rest.
        owners: the names of all images that it belongs to, also those that are not sorted.
    """

    name: str
    stem: str
    ending: str
    owners: tuple[str, ...]


class Sidecars:
    """The sidecars of images; each folder is listed once.

    Args:
        folder: the folder that is sorted.
        paths: the images that are sorted, below it.
    """

    def __init__(self, folder: Path, paths: Container[str]) -> None:
        self._folder = folder
        self._paths = paths
        self._place: str | None = None
        self._found: dict[str, list[Sidecar]] = {}

    def find(self, path: str) -> list[Sidecar]:
        """Return the sidecars of an image, in the order of their names; none where the folder cannot be listed."""
        place, _, name = path.rpartition("/")
        if place != self._place:
            self._place, self._found = place, self._list(place)
        return self._found.get(name, [])

    def _list(self, place: str) -> dict[str, list[Sidecar]]:
        try:
            names = sorted(os.listdir(self._folder / place))
        except OSError:
            return {}
        images = [name for name in names if self._is_image(place, name)]
        by_name, by_stem = (
            _Spellings((name, name) for name in images),
            _Spellings((_stem(name), name) for name in images),
        )
        found: dict[str, list[Sidecar]] = defaultdict(list)
        for name in names:
            for owner, sidecar in self._owners(place, name, by_name, by_stem):
                found[owner].append(sidecar)
        return found

    def _owners(self, place: str, name: str, by_name: _Spellings, by_stem: _Spellings) -> list[tuple[str, Sidecar]]:
        stem, ending = os.path.splitext(name)
        kind = ending.lower()
        if kind not in (XMP, EDITS, MOVIE) or name.startswith(".") or self._is_sorted(place, name):
            return []
        if not os.path.isfile(self._folder / place / name):
            return []
        if kind == XMP and (own := by_name.find(stem)):
            inner, dot = os.path.splitext(stem)
            return [(owner, Sidecar(name, inner, dot + ending, tuple(own))) for owner in own]
        owners = by_stem.find(stem)
        if kind == EDITS and not owners and (apple := _APPLE.fullmatch(fold(stem))):
            base = apple[1] + apple[2]
            owners = by_stem.find(base) or by_stem.find(f"{apple[1]}e{apple[2]}")
        sidecar = Sidecar(name, stem, ending, tuple(owners))
        return [(owner, sidecar) for owner in owners if self._is_sorted(place, owner)]

    def _is_image(self, place: str, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES or self._is_sorted(place, name)

    def _is_sorted(self, place: str, name: str) -> bool:
        return (f"{place}/{name}" if place else name) in self._paths


class _Spellings:
    """Names by a key that is found as it is written, or else without regard to case and the forms of Unicode."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        self._exact: dict[str, list[str]] = defaultdict(list)
        self._folded: dict[str, list[str]] = defaultdict(list)
        for key, name in names:
            self._exact[key].append(name)
            self._folded[fold(key)].append(name)

    def find(self, key: str) -> list[str]:
        return self._exact.get(key) or self._folded.get(fold(key), [])


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
