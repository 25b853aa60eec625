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
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.images.load import IMAGE_SUFFIXES
from sharpzo_mlx.sorting.class_folders import fold

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
        images, by_stem = {}, defaultdict(list)
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() in IMAGE_SUFFIXES or self._is_sorted(place, name):
                images[fold(name)] = name
                by_stem[fold(stem)].append(name)
        found: dict[str, list[Sidecar]] = defaultdict(list)
        for name in names:
            for owner, sidecar in self._owners(place, name, images, by_stem):
                found[owner].append(sidecar)
        return found

    def _owners(
        self, place: str, name: str, images: dict[str, str], by_stem: dict[str, list[str]]
    ) -> list[tuple[str, Sidecar]]:
        stem, ending = os.path.splitext(name)
        kind = ending.lower()
        if kind not in (XMP, EDITS, MOVIE) or name.startswith(".") or self._is_sorted(place, name):
            return []
        if not os.path.isfile(self._folder / place / name):
            return []
        if kind == XMP and fold(stem) in images:
            inner, dot = os.path.splitext(stem)
            owner = images[fold(stem)]
            return [(owner, Sidecar(name, inner, dot + ending, (owner,)))]
        owners = by_stem.get(fold(stem), [])
        if kind == EDITS and not owners and (apple := _APPLE.fullmatch(fold(stem))):
            base = apple[1] + apple[2]
            owners = by_stem.get(base, []) or by_stem.get(f"{apple[1]}e{apple[2]}", [])
        sidecar = Sidecar(name, stem, ending, tuple(owners))
        return [(owner, sidecar) for owner in owners if self._is_sorted(place, owner)]

    def _is_sorted(self, place: str, name: str) -> bool:
        return (f"{place}/{name}" if place else name) in self._paths
