"""The image folders of the demonstration: photographs at dusk to tune on, and the same things in other lights.

`render` paints twelve living things as imitation photographs at dusk, split into train/, val/ and test/, and beside
them shifted sets: photographs by day and at night, and pencil drawings. It is a generator of records, one a picture,
so that the caller can show how far it is.

>>> for picture in render(Path("pictures"), seed=0): ...  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.demo.figures import ANIMALS, PLANTS
from sharpzo_mlx.demo.painting import paint
from sharpzo_mlx.rng import generator_for

LIVING: tuple[str, ...] = (*ANIMALS, *PLANTS)
DATASET = "dusk"
SHIFTED = {"day": "photo", "night": "night", "pencil": "pencil"}  # folder -> style


@dataclass(frozen=True)
class Rendered:
    """A picture was written: where all of them go, its own file, and how many are done."""

    folder: Path
    path: Path
    done: int
    total: int


@dataclass(frozen=True)
class Amounts:
    """Pictures of one class in every split, and in every shifted set."""

    train: int = 16
    val: int = 8
    test: int = 30
    shifted: int = 20


def folders(root: Path, amounts: Amounts) -> list[tuple[Path, str, int]]:
    """What there is to paint: (folder of class folders, style, pictures of one class)."""
    photos = [(name, getattr(amounts, name)) for name in ("train", "val", "test")]
    tuned = [(root / DATASET / split, "dusk", count) for split, count in photos]
    return tuned + [(root / name, style, amounts.shifted) for name, style in SHIFTED.items()]


def render(
    root: Path, *, seed: int = 0, amounts: Amounts | None = None, names: Sequence[str] = LIVING
) -> Iterator[Rendered]:
    """Paint the demonstration's images into `root`.

    Args:
        root: where `dusk/{train,val,test}/<class>/` and `{day,night,pencil}/<class>/` are made.
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
                paint(name, style, generator_for(seed, "demo", folder.name, name, index)).image.save(path)
                done += 1
                yield Rendered(root, path, done, total)
