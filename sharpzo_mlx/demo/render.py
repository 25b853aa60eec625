"""The image folders of the demonstration: photographs to tune on, and the same things in three other lights.

`render` paints twelve living things as imitation photographs, split into train/, val/ and test/, and beside them
shifted sets: the photographs at night, in fog, and as pencil drawings. It is a generator of records, one a picture,
so that the caller can show how far it is.

>>> for picture in render(Path("pictures"), seed=0): ...  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.demo.figures import ANIMALS, PLANTS
from sharpzo_mlx.demo.painting import UNSEEN_STYLES, paint
from sharpzo_mlx.random import numpy_stream

LIVING: tuple[str, ...] = (*ANIMALS, *PLANTS)
DATASET = "photos"


@dataclass(frozen=True)
class Rendered:
    """A picture was written: the folder it belongs to, and how many of all are done."""

    path: Path
    done: int
    total: int


@dataclass(frozen=True)
class Amounts:
    """Pictures of one class in every split, and in every shifted set."""

    train: int = 16
    val: int = 8
    test: int = 40
    shifted: int = 20


def folders(root: Path, amounts: Amounts) -> list[tuple[Path, str, int]]:
    """What there is to paint: (folder of class folders, style, pictures of one class)."""
    photos = [(name, getattr(amounts, name)) for name in ("train", "val", "test")]
    tuned = [(root / DATASET / split, "photo", count) for split, count in photos]
    return tuned + [(root / style, style, amounts.shifted) for style in UNSEEN_STYLES]


def render(
    root: Path, *, seed: int = 0, amounts: Amounts | None = None, names: Sequence[str] = LIVING
) -> Iterator[Rendered]:
    """Paint the demonstration's images into `root`.

    Args:
        root: where `photos/{train,val,test}/<class>/` and `<style>/<class>/` are made.
        seed: the same seed paints the same pictures.
        amounts: pictures of one class.
        names: the classes, keys of `figures.FIGURES`.

    Yields:
        A record after each picture.
    """
    amounts = amounts or Amounts()
    plan = folders(root, amounts)
    total = len(names) * sum(count for _, _, count in plan)
    done = 0
    for folder, style, count in plan:
        for name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                path = folder / name / f"{index:03}.png"
                # the folder's name is part of the stream: no picture stands in two splits
                paint(name, style, numpy_stream(seed, "demo", folder.name, name, index)).image.save(path)
                done += 1
                yield Rendered(path, done, total)
