"""Find the sets of images in ImageNet-C's tree corruption/severity/class, which may lie below grouping folders.

A folder is a severity if its name is 1 to 5 and it holds the folder of a known class. Numbered class folders
(ImageNet-V2) and other folders are thus not mistaken for severities.

>>> find_corruptions(Path("imagenet-c"), {"n01440764"})[0]  # doctest: +SKIP
(('gaussian_noise', '1'), PosixPath('imagenet-c/noise/gaussian_noise/1'))
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.errors import UserError

SEVERITIES = ("1", "2", "3", "4", "5")
CorruptedFolder = tuple[tuple[str, str], Path]  # (corruption, severity), the folder that holds the class folders


def find_corruptions(folder: Path, known: Set[str], *, depth: int = 2) -> list[CorruptedFolder]:
    """Return every corruption and severity below a folder; an empty list if the folder is not such a tree.

    Args:
        folder: one corruption, several corruptions, or groups of corruptions.
        known: the names that class folders may have.
        depth: how many levels of folders above the corruption are searched.

    Raises:
        UserError: some folders of the tree are corruptions and others are not.
    """
    inside = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    if any(nfc(entry.name) in known for entry in inside):
        return []
    if inside and all(entry.name in SEVERITIES and _holds(entry, known) for entry in inside):
        return [((nfc(folder.resolve().name), entry.name), entry) for entry in inside]
    if not depth:
        return []
    found = {entry: find_corruptions(entry, known, depth=depth - 1) for entry in inside}
    others = [entry.name for entry, leaves in found.items() if not leaves]
    if others and any(found.values()):
        raise UserError(f"{folder}: {', '.join(others[:5])}: no severities 1 to 5 of tuned classes; move them away")
    return [leaf for leaves in found.values() for leaf in leaves]


def _holds(folder: Path, known: Set[str]) -> bool:
    return any(nfc(entry.name) in known and entry.is_dir() for entry in folder.iterdir())
