"""ImageNet-C's trees: corruption/severity/class, perhaps below folders that group the corruptions.

A folder is a severity when it is called 1 .. 5 and holds a class that was tuned; that keeps numbered class folders
(ImageNet-V2) and plain ones apart from it.

>>> corruption_leaves(Path("imagenet-c"), {"n01440764"})[0]  # doctest: +SKIP
(('gaussian_noise', '1'), PosixPath('imagenet-c/noise/gaussian_noise/1'))
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.errors import UserError

SEVERITIES = ("1", "2", "3", "4", "5")
Leaf = tuple[tuple[str, str], Path]  # (corruption, severity), the folder of class folders


def corruption_leaves(folder: Path, known: Set[str], *, depth: int = 2) -> list[Leaf]:
    """The folders of class folders in a tree of corruptions; none where the folder is no such tree.

    Args:
        folder: one corruption, several of them, or groups of them.
        known: names that class folders may have.
        depth: levels above the corruption that are looked through.

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
    found = {entry: corruption_leaves(entry, known, depth=depth - 1) for entry in inside}
    others = [entry.name for entry, leaves in found.items() if not leaves]
    if others and any(found.values()):
        raise UserError(f"{folder}: {', '.join(others[:5])}: no severities 1 to 5 of tuned classes; move them away")
    return [leaf for leaves in found.values() for leaf in leaves]


def _holds(folder: Path, known: Set[str]) -> bool:
    return any(nfc(entry.name) in known and entry.is_dir() for entry in folder.iterdir())
