"""Paint the image folders of the demonstration: photographs at dusk to tune on, and the same animals in other styles.

`render` paints twelve animals and plants as imitation photographs at dusk, split into train/, val/ and test/, and also
three shifted sets: photographs by day and at night, and pencil drawings. It yields a record after each picture, so that
the caller can show the progress.

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
    """A picture was written: the folder of all pictures, its own file, and the number of pictures done and planned."""

    folder: Path
    path: Path
    done: int
    total: int


@dataclass(frozen=True)
class Amounts:
    """The number of pictures of one class in each split and each shifted set."""

    train: int = 16
    val: int = 8
    test: int = 30
    shifted: int = 20


def folders(root: Path, amounts: Amounts) -> list[tuple[Path, str, int]]:
    """Return what to paint: the folder of class folders, the style, and the number of pictures of one class."""
    photos = [(name, getattr(amounts, name)) for name in ("train", "val", "test")]
    tuned = [(root / DATASET / split, "dusk", count) for split, count in photos]
    return tuned + [(root / name, style, amounts.shifted) for name, style in SHIFTED.items()]


def render(
    root: Path, *, seed: int = 0, amounts: Amounts | None = None, names: Sequence[str] = LIVING
) -> Iterator[Rendered]:
    """Paint the images of the demonstration into a folder.

    Args:
        root: the folder for `dusk/{train,val,test}/<class>/` and `{day,night,pencil}/<class>/`.
        seed: the same seed paints the same pictures.
        amounts: the number of pictures of one class.
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
                # the folder's name is part of the path, so that no picture is in two splits
                paint(name, style, generator_for(seed, "demo", folder.name, name, index)).image.save(path)
                done += 1
                yield Rendered(root, path, done, total)
