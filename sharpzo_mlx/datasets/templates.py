"""Choose the prompt template of a data set: CoOp's for its eleven data sets, else "a photo of a {}.".

A data set is recognised by its split file (`split_zhou_EuroSAT.json`, FGVC-Aircraft's lists) or by CoOp's name for
its folder (`eurosat`). One template differs from CoOp's: its "{} texture." for DTD has no words before the class name,
and those words are what is tuned.

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
_STANDARD: tuple[tuple[str, str, str], ...] = (  # name in split files, folder, template of CoOp (arXiv 2109.01134)
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
    """Return the template of a known data set, or None; `dataset` is its folder."""
    file = find_split_file(dataset) if dataset.is_dir() else None
    title = _title(file) if file else None
    for name, folder, template in _STANDARD:
        if title == name.casefold() or (title is None and dataset.resolve().name.casefold() == folder):
            return template
    return None


def _title(file: Path) -> str:
    return "fgvcaircraft" if file.name == aircraft.MARK else file.stem.removeprefix("split_zhou_").casefold()
