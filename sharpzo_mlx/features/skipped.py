"""What is said of images that cannot be read, and are skipped.

>>> name_files([(Path("a.jpg"), "empty file")])
'a.jpg: empty file'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sharpzo_mlx.errors import notify

NAMED = 5  # a notice names this many


def report_skipped(skipped: Sequence[tuple[Path, str]]) -> None:
    """Notify the user of images that cannot be read, if there are any."""
    if skipped:
        images = "1 unreadable image is" if len(skipped) == 1 else f"{len(skipped)} unreadable images are"
        notify(f"{images} skipped: {name_files(skipped)}")


def name_files(failed: Sequence[tuple[Path, str]]) -> str:
    """Return the first unreadable files with their reasons, and how many more there are, for a notice."""
    named = "; ".join(f"{path}: {reason}" for path, reason in failed[:NAMED])
    return named + (f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else "")
