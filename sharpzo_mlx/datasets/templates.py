"""The prompt template that goes with a data set: CoOp's own for its eleven, else "a photo of a {}.".

A data set is known by its split file (`split_zhou_EuroSAT.json`, FGVC-Aircraft's lists) or by the name CoOp gives
its folder (`eurosat`). One template differs: CoOp's "{} texture." for DTD has no words before the name, and those
words are what is tuned.

>>> standard_template(Path("data/oxford_pets"))
'a photo of a {}, a type of pet.'
>>> standard_template(Path("photos")) is None
True
"""

from __future__ import annotations

from pathlib import Path

from sharpzo_mlx.datasets import aircraft
from sharpzo_mlx.datasets.coop import find_split_file

PLAIN = "a photo of a {}."
_STANDARD: tuple[tuple[str, str, str], ...] = (  # in split files' names, CoOp's folder, template (arXiv 2109.01134)
    ("OxfordPets", "oxford_pets", "a photo of a {}, a type of pet."),
    ("OxfordFlowers", "oxford_flowers", "a photo of a {}, a type of flower."),
    ("FGVCAircraft", "fgvc_aircraft", "a photo of a {}, a type of aircraft."),
    ("DescribableTextures", "dtd", "a photo of a {} texture."),
    ("EuroSAT", "eurosat", "a centered satellite photo of {}."),
    ("StanfordCars", "stanford_cars", PLAIN),
    ("Food101", "food-101", "a photo of {}, a type of food."),
    ("SUN397", "sun397", PLAIN),
    ("Caltech101", "caltech-101", PLAIN),
    ("UCF101", "ucf101", "a photo of a person doing {}."),
    ("ImageNet", "imagenet", PLAIN),
)


def standard_template(dataset: Path) -> str | None:
    """The template of a known data set, or None.

    Args:
        dataset: the folder of the data set.
    """
    file = find_split_file(dataset) if dataset.is_dir() else None
    title = _title(file) if file else None
    for name, folder, template in _STANDARD:
        if title == name.casefold() or (title is None and dataset.resolve().name.casefold() == folder):
            return template
    return None


def _title(file: Path) -> str:
    return "fgvcaircraft" if file.name == aircraft.MARK else file.stem.removeprefix("split_zhou_").casefold()
