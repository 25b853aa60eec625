"""Read the lists of FGVC-Aircraft, which stand beside its `images/` folder in the place of a split file.

A line of `images_variant_{train,val,test}.txt` is the number of an image and its variant (`1025794 707-320`).
`variants.txt` gives the order of the classes. A variant is not a folder: some contain a slash (`F/A-18`).

>>> read_lists(Path("fgvc_aircraft/images_variant_train.txt"))["train"][0]  # doctest: +SKIP
('images/1025794.jpg', 0, '707-320')
"""

from __future__ import annotations

from pathlib import Path

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.reading import read_text, reason

MARK = "images_variant_train.txt"
ORDER = "variants.txt"
IMAGES = "images"


def read_lists(file: Path) -> dict[str, list[tuple[str, int, str]]]:
    """Read the three lists of images.

    Args:
        file: the list of training images; the other lists and `variants.txt` are read from the same folder.

    Returns:
        For train, val and test, the path (below the file's folder), label and variant of each image.

    Raises:
        UserError: a list is missing, or a line names no variant of `variants.txt`.
    """
    variants = _lines(file.with_name(ORDER))
    labels = {variant: label for label, variant in enumerate(variants)}
    if len(labels) < len(variants):
        raise UserError(f"{file.with_name(ORDER)}: names a variant twice; download the file again")
    return {part: _entries(file.with_name(f"images_variant_{part}.txt"), labels) for part in ("train", "val", "test")}


def _entries(file: Path, labels: dict[str, int]) -> list[tuple[str, int, str]]:
    entries = []
    for line in _lines(file):
        number, _, variant = line.partition(" ")
        if "\0" in number:
            raise UserError(f"{file}: line {line!r} names no image; lines are like '1025794 707-320'")
        if (variant := variant.strip()) not in labels:
            raise UserError(f"{file}: line {line!r} names no variant of {ORDER}; lines are like '1025794 707-320'")
        entries.append((f"{IMAGES}/{number}.jpg", labels[variant], variant))
    return entries


def _lines(file: Path) -> list[str]:
    try:
        lines = read_text(file).splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing; put it beside {MARK}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text ({reason(error)}); download it again") from error
    return [line.strip() for line in lines if line.strip()]
