"""Make the data sets on which the defaults were chosen, and fresh ones that were made after the choice.

The demonstration's model gets pictures by the demonstration's painter in two lights. The testbed's model gets changed
real images: negatives and edges of 60 classes of Tiny ImageNet, and negatives of 36 classes of Caltech-101; the
unchanged photographs of `caltech101` measure harm. Unchanged subsets of both are left out: a shared context gains only
one to three points there, also by backpropagation, which is too little to choose by. The fresh sets are negatives and
edges of `pacs/photo` and of `tiny-superclasses`.

    python benchmarks/choice_sets.py --testbed ../shared/testbed --output choice
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from sharpzo_mlx.demo.render import Amounts, render

SPLITS = ("train", "val", "test")
ALL = 1000  # more classes than a set has
PAINTED = Amounts(train=0, val=0, test=70, shifted=70)


def edges(image: Image.Image) -> Image.Image:
    """Draw dark lines on white where the brightness changes."""
    return ImageOps.invert(image.convert("L").filter(ImageFilter.FIND_EDGES)).convert("RGB")


CHANGES: Mapping[str, Callable[[Image.Image], Image.Image]] = {"negative": ImageOps.invert, "edges": edges}


def change(source: Path, target: Path, *, how: str, classes: int, seed: int) -> None:
    """Write changed copies of the images of some classes, all splits together.

    Args:
        source: train/, val/ and test/ with class folders of images.
        target: the folder for the class folders, and for the list of class names if the source has one.
        how: a key of CHANGES.
        classes: the number of classes to draw.
        seed: the seed of the draw.
    """
    folders = np.array(sorted(path.name for path in (source / "train").iterdir() if path.is_dir()))
    drawn = sorted(folders[np.random.default_rng(seed).permutation(len(folders))[:classes]].tolist())
    for name in drawn:
        (target / name).mkdir(parents=True, exist_ok=True)
        for image in sorted(path for split in SPLITS for path in (source / split / name).glob("*")):
            changed = CHANGES[how](Image.open(image).convert("RGB"))
            changed.save(target / name / f"{image.parent.parent.name}-{image.stem}.png")
    if (source / "classnames.txt").exists():
        lines = (source / "classnames.txt").read_text().splitlines()
        (target / "classnames.txt").write_text("".join(f"{line}\n" for line in lines if line.split()[0] in drawn))


def main() -> None:
    """Make the folders of changed and painted images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--testbed", type=Path, default=Path("../shared/testbed"), help="where the real images lie")
    parser.add_argument("--output", type=Path, default=Path("choice"))
    given = parser.parse_args()
    for _ in render(given.output / "painted", seed=11, amounts=PAINTED):
        pass
    for how in CHANGES:
        change(given.testbed / "tiny-imagenet", given.output / f"tiny-{how}", how=how, classes=60, seed=5)
        for source in (Path("pacs", "photo"), Path("tiny-superclasses")):
            target = given.output / "fresh" / f"{source.name}-{how}"
            change(given.testbed / source, target, how=how, classes=ALL, seed=0)
    change(given.testbed / "caltech101", given.output / "caltech-negative", how="negative", classes=36, seed=6)


if __name__ == "__main__":
    main()
