"""A data set with CoOp's split file over the test photographs, for tests of reading it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

SPLIT_NAMES = ("barn owl", "cat", "dog")


def make_split(photos: Path, folder: Path) -> Path:
    """Copy the photographs into a new folder with a split file of all of them; return the file."""
    data = shutil.copytree(photos, folder)
    entries = [[f"{name}/{number}.png", label, name] for label, name in enumerate(SPLIT_NAMES) for number in range(12)]
    path = data / "split_zhou_photos.json"
    path.write_text(json.dumps({"train": entries[::2], "val": entries[1::4], "test": entries[3::4]}))
    return path
